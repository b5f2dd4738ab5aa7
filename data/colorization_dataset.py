"""Colour images split into lightness and colour, for colorization."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

from data.base_dataset import BaseDataset, Files, channels
from data.image_folder import list_images
from data.image_reader import ImageReader
from data.transforms import get_transform, to_unit_interval
from util.color import rgb_to_lab


class ColorizationDataset(BaseDataset):
    """Images under {phase}/ of --dataroot, in CIE Lab: L is the input, ab the answer.

    The idea: Zhang, Isola, Efros 2016, "Colorful Image Colorization", arXiv 1603.08511.
    """

    quick_from_cache = False  # the conversion to Lab is what takes the time

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """One channel in, two out."""
        parser.set_defaults(input_nc=1, output_nc=2, direction="AtoB")
        return parser

    @classmethod
    def check_options(cls, opt: Namespace) -> Iterator[str]:
        """A has one channel, B two; --model colorization, which wants more, says so itself."""
        if opt.model != "colorization" and channels(opt) != (1, 2):
            yield (
                f"--input_nc {opt.input_nc} --output_nc {opt.output_nc} --direction {opt.direction}"
                f": --dataset_mode {opt.dataset_mode} has A = L, B = ab; leave these three out"
            )

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt)
        self.paths = list_images(os.path.join(self.root, opt.phase), opt.max_dataset_size)
        self.read = ImageReader(opt, rgb=3)
        self.transform = get_transform(opt, convert=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image: A = L/50 - 1 (1, H, W), B = ab/110 (2, H, W), A_paths, B_paths."""
        path = self.paths[index]
        rgb = to_unit_interval(self.transform(*self.read(path)))
        lab = rgb_to_lab(rgb.double()).float()
        return {"A": lab[:1] / 50 - 1, "B": lab[1:] / 110, "A_paths": path, "B_paths": path}

    def to_cache(self) -> Files:
        """All images, in RGB."""
        return [(self.read, self.paths)]
