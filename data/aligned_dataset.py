"""Paired images, for pix2pix."""

import os
from argparse import Namespace
from typing import Any

from data.base_dataset import BaseDataset, Files, channels
from data.image_folder import list_images, pair_by_stem, shortened, two_folders
from data.image_io import read_header
from data.image_reader import ImageReader
from data.transforms import get_params, get_transform, image_size
from util.errors import UserError


class AlignedDataset(BaseDataset):
    """Pairs {A, B} that show the same thing, in one of three layouts under --dataroot.

    - {phase}/: side-by-side images, A on the left, B on the right;
    - {phase}A/ and {phase}B/: two folders, paired by the names before the suffix;
    - A/{phase}/ and B/{phase}/: the same.
    """

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt)
        folder = os.path.join(self.root, opt.phase)
        nc_A, nc_B = channels(opt)
        if os.path.isdir(folder):
            self.readers = [ImageReader(opt, A=nc_A, B=nc_B)]  # one for both
            pairs = [(path, path) for path in list_images(folder)]
        else:
            self.readers = [ImageReader(opt, A=nc_A), ImageReader(opt, B=nc_B)]
            pairs = _matching(*two_folders(self.root, opt.phase))
        self.pairs = pairs[: int(min(opt.max_dataset_size, len(pairs)))]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One pair: A (C, H, W), B (C, H, W) with the same crop and flip, A_paths, B_paths."""
        paths = self.pairs[index]
        files = zip(self.readers, paths, strict=False)
        A, B = (image for read, path in files for image in read(path))
        if image_size(A) != image_size(B):
            raise UserError(_unequal(self.opt.preprocess, *paths))
        transform = get_transform(self.opt, get_params(self.opt, image_size(A)))
        return {
            "A": transform(A),
            "B": transform(B),
            "A_paths": paths[0],
            "B_paths": paths[1],
        }

    def to_cache(self) -> Files:
        """The files of all pairs."""
        return list(zip(self.readers, zip(*self.pairs, strict=True), strict=False))


def _unequal(preprocess: str, *paths: str) -> str:
    """Say that a crop of A would not show the same part as the same crop of B."""
    A, B = ("x".join(map(str, read_header(path).size)) for path in paths)
    return (
        f"{paths[0]} is {A} and {paths[1]} is {B}: with "
        f"--preprocess {preprocess} the two do not match; make them equal in size, or use "
        "--preprocess resize_and_crop"
    )


def _matching(*folders: str) -> list[tuple[str, str]]:
    """The pairs of two folders; UserError if an image has no partner, or more than one."""
    pairs, *alone = pair_by_stem(*folders)
    problems = [
        f"{len(paths)} only in {folder}: {shortened([os.path.relpath(p, folder) for p in paths])}"
        for paths, folder in zip(alone, folders, strict=True)
        if paths
    ]
    if problems:
        raise UserError(
            f"images without a partner: {'; '.join(problems)}. Give both images of a pair the same "
            "name and remove those without a partner, or use --dataset_mode unaligned (--model "
            "cycle_gan) if they are no pairs"
        )
    return pairs
