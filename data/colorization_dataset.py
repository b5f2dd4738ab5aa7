"""Colour images split into lightness and colour, for colorization."""

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from torchvision.transforms import functional as F

from data.base_dataset import BaseDataset, get_transform
from data.image_folder import load_image, make_dataset
from util.color import rgb_to_lab
from util.errors import UserError


class ColorizationDataset(BaseDataset):
    """Images under {phase}/ of --dataroot, in CIE Lab: L is the input, ab the answer.

    The idea: Zhang, Isola, Efros 2016, "Colorful Image Colorization", arXiv 1603.08511.
    """

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """One channel in, two out."""
        parser.set_defaults(input_nc=1, output_nc=2, direction="AtoB")
        return parser

    def __init__(self, opt: Namespace) -> None:
        """List the images.

        Raises:
            UserError: other channels or another direction than L to ab; no images.
        """
        super().__init__(opt)
        if (opt.input_nc, opt.output_nc, opt.direction) != (1, 2, "AtoB"):
            raise UserError(
                f"--input_nc {opt.input_nc} --output_nc {opt.output_nc} --direction "
                f"{opt.direction}: --dataset_mode colorization goes from L (1 channel) to ab "
                "(2 channels); leave these three options out"
            )
        self.paths = make_dataset(os.path.join(self.root, opt.phase), opt.max_dataset_size)
        self.transform = get_transform(opt, convert=False)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image: A = L/50 - 1 (1, H, W), B = ab/110 (2, H, W), A_paths, B_paths."""
        path = self.paths[index]
        rgb = F.to_tensor(self.transform(load_image(path)))
        lab = rgb_to_lab(rgb.double()).float()
        return {"A": lab[:1] / 50 - 1, "B": lab[1:] / 110, "A_paths": path, "B_paths": path}
