"""Paired images, for pix2pix."""

import os
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from PIL import Image

from data.base_dataset import BaseDataset, Files, channels, check_channels
from data.image_folder import make_dataset, pair_by_stem, shortened, two_folders
from data.image_io import ImageReader, load_image
from data.transforms import get_params, get_transform
from util.errors import UserError


class AlignedDataset(BaseDataset):
    """Pairs {A, B} that show the same thing, in one of three layouts under --dataroot.

    - {phase}/: side-by-side images, A on the left, B on the right;
    - {phase}A/ and {phase}B/: two folders, paired by the names before the suffix;
    - A/{phase}/ and B/{phase}/: the same.
    """

    @staticmethod
    def check_options(opt: Namespace) -> Iterator[str]:
        """Images are RGB or grey."""
        return check_channels(opt, "input_nc", "output_nc")

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt)
        folder = os.path.join(self.root, opt.phase)
        self.side_by_side = os.path.isdir(folder)
        if self.side_by_side:
            self.pairs = [(path, path) for path in make_dataset(folder, opt.max_dataset_size)]
        else:
            pairs = _matching(*two_folders(self.root, opt.phase))
            self.pairs = pairs[: int(min(opt.max_dataset_size, len(pairs)))]
        self.grey_A, self.grey_B = (count == 1 for count in channels(opt))
        self.read_both = ImageReader(opt, self.grey_A, self.grey_B)
        self.read_A, self.read_B = ImageReader(opt, self.grey_A), ImageReader(opt, self.grey_B)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One pair: A (C, H, W), B (C, H, W) with the same crop and flip, A_paths, B_paths."""
        path_A, path_B = self.pairs[index]
        if self.side_by_side:
            A, B = self.read_both(path_A)
        else:
            (A,), (B,) = self.read_A(path_A), self.read_B(path_B)
            self._check_sizes(A, B, path_A, path_B)
        params = get_params(self.opt, A.size)
        return {
            "A": get_transform(self.opt, params, self.grey_A)(A),
            "B": get_transform(self.opt, params, self.grey_B)(B),
            "A_paths": path_A,
            "B_paths": path_B,
        }

    def to_cache(self) -> Files:
        """The files of all pairs."""
        paths_A, paths_B = zip(*self.pairs, strict=True)
        if self.side_by_side:
            return [(self.read_both, paths_A)]
        return [(self.read_A, paths_A), (self.read_B, paths_B)]

    def _check_sizes(self, A: Image.Image, B: Image.Image, path_A: str, path_B: str) -> None:
        """Stop if a crop of A would not show the same part as the same crop of B."""
        if A.size != B.size:
            A, B = load_image(path_A), load_image(path_B)  # as they are in the files
            raise UserError(
                f"{path_A} is {A.width}x{A.height} and {path_B} is {B.width}x{B.height}: with "
                f"--preprocess {self.opt.preprocess} the two do not match; make them equal in "
                "size, or use --preprocess resize_and_crop"
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
