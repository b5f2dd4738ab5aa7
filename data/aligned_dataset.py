"""Paired images, for pix2pix."""

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from data.base_dataset import (
    BaseDataset,
    Picture,
    channels,
    check_channels,
    get_params,
    get_transform,
    resized_size,
    size_of,
)
from data.image_folder import (
    contents,
    load_image,
    make_dataset,
    missing_folder,
    shortened,
    two_folders,
)
from data.image_io import Pictures
from util.errors import UserError


class AlignedDataset(BaseDataset):
    """Pairs {A, B} that show the same thing, in one of three layouts under --dataroot.

    - {phase}/: side-by-side pictures, A on the left, B on the right;
    - {phase}A/ and {phase}B/: two folders, paired by the names before the suffix;
    - A/{phase}/ and B/{phase}/: the same.
    """

    @staticmethod
    def check_options(opt: Namespace) -> Iterator[str]:
        """Pictures are RGB or grey."""
        return check_channels(opt, "input_nc", "output_nc")

    def __init__(self, opt: Namespace) -> None:
        """List the pairs.

        Raises:
            UserError: no layout is there, or names without a partner.
        """
        super().__init__(opt)
        folder = os.path.join(self.root, opt.phase)
        self.side_by_side = os.path.isdir(folder)
        if self.side_by_side:
            self.pairs = [(path, path) for path in make_dataset(folder, opt.max_dataset_size)]
        else:
            folders = two_folders(self.root, opt.phase)
            if folders is None:
                raise UserError(no_pairs(self.root, opt.phase))
            pairs = pair_by_stem(*folders)
            self.pairs = pairs[: int(min(opt.max_dataset_size, len(pairs)))]
        nc_A, nc_B = channels(opt)
        self.grayscale_A, self.grayscale_B = nc_A == 1, nc_B == 1
        self.both = Pictures(opt, self.grayscale_A, self.grayscale_B)
        self.read_A, self.read_B = Pictures(opt, self.grayscale_A), Pictures(opt, self.grayscale_B)

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One pair: A (C, H, W), B (C, H, W) with the same crop and flip, A_paths, B_paths."""
        path_A, path_B = self.pairs[index]
        if self.side_by_side:
            A, B = self.both(path_A)
        else:
            (A,), (B,) = self.read_A(path_A), self.read_B(path_B)
            self.check_sizes(A, B, path_A, path_B)
        params = get_params(self.opt, size_of(A))
        return {
            "A": get_transform(self.opt, params, self.grayscale_A)(A),
            "B": get_transform(self.opt, params, self.grayscale_B)(B),
            "A_paths": path_A,
            "B_paths": path_B,
        }

    def to_cache(self) -> Sequence[tuple[Pictures, Sequence[str]]]:
        """The files of all pairs."""
        paths_A, paths_B = zip(*self.pairs, strict=True)
        if self.side_by_side:
            return [(self.both, paths_A)]
        return [(self.read_A, paths_A), (self.read_B, paths_B)]

    def check_sizes(self, A: Picture, B: Picture, path_A: str, path_B: str) -> None:
        """Stop if a crop of A would not show the same part as the same crop of B."""
        if resized_size(self.opt, size_of(A)) != resized_size(self.opt, size_of(B)):
            A, B = load_image(path_A), load_image(path_B)  # those from the cache are resized
            raise UserError(
                f"{path_A} is {A.width}x{A.height} and {path_B} is {B.width}x{B.height}: with "
                f"--preprocess {self.opt.preprocess} the two do not match; make them equal in "
                "size, or use --preprocess resize_and_crop"
            )


def pair_by_stem(folder_A: str, folder_B: str) -> list[tuple[str, str]]:
    """Pair the images of two folders by their relative paths without suffix.

    Raises:
        UserError: images without a partner, or a name that is there twice.
    """
    A, B = by_stem(folder_A), by_stem(folder_B)
    only_A, only_B = sorted(A.keys() - B.keys()), sorted(B.keys() - A.keys())
    if not only_A and not only_B:
        return [(A[stem], B[stem]) for stem in A]
    problems = [
        f"{len(only)} only in {folder}: {shortened(only)}"
        for only, folder in ((only_A, folder_A), (only_B, folder_B))
        if only
    ]
    remedy = "Give both pictures of a pair the same name, and remove those without a partner"
    if not A.keys() & B.keys():
        remedy += "; if they are no pairs at all, use --dataset_mode unaligned (--model cycle_gan)"
    raise UserError(f"images without a partner: {'; '.join(problems)}. {remedy}")


def by_stem(folder: str) -> dict[str, str]:
    """Map each relative path without suffix to its image."""
    paths: dict[str, str] = {}
    for path in make_dataset(folder):
        stem = os.path.splitext(os.path.relpath(path, folder))[0]
        if stem in paths:
            raise UserError(
                f"{paths[stem]} and {path} have one name before the suffix, so that it is not "
                "clear which one belongs to the pair; rename or remove one"
            )
        paths[stem] = path
    return paths


def no_pairs(root: str, phase: str) -> str:
    """Say what was looked for and what is there."""
    if not os.path.isdir(root):
        return missing_folder(root)
    return (
        f"no pairs for --phase {phase} in --dataroot {root}: looked for {phase}/ (A and B side by "
        f"side in one picture), {phase}A/ with {phase}B/, and A/{phase}/ with B/{phase}/; "
        f"{contents(root)}. Check --dataroot and --phase"
    )
