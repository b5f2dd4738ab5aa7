"""Colorization: pix2pix from the lightness L of CIE Lab to its colours a and b."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

import torch
from torch import Tensor

from models.pix2pix_model import Pix2PixModel
from util.color import lab_to_rgb


class ColorizationModel(Pix2PixModel):
    """pix2pix on the batches of the colorization dataset: A is L / 50 - 1, B is ab / 110."""

    records_step = True

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """The settings of pix2pix, with the colorization dataset."""
        Pix2PixModel.modify_commandline_options(parser, is_train)
        parser.set_defaults(dataset_mode="colorization")
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> Iterator[str]:
        """From one channel, L, to two, a and b."""
        yield from Pix2PixModel.check_options(opt)
        flags = f"--input_nc {opt.input_nc} --output_nc {opt.output_nc} --direction {opt.direction}"
        if flags != "--input_nc 1 --output_nc 2 --direction AtoB":
            yield f"--model colorization: {flags} must be 1, 2 and AtoB; leave these flags out"

    def __init__(self, opt: Namespace):
        super().__init__(opt)
        self.visual_names = ["real_A", "real_B_rgb", "fake_B_rgb"]

    def compute_visuals(self) -> None:
        """Turn L with the real and with the generated ab into colour images."""
        self.real_B_rgb = self.to_rgb(self.real_A, self.real_B)
        self.fake_B_rgb = self.to_rgb(self.real_A, self.fake_B)

    @staticmethod
    def to_rgb(lightness: Tensor, colour: Tensor) -> Tensor:
        """Lab as the networks see it, (N, 1, H, W) and (N, 2, H, W), to RGB; all in [-1, 1]."""
        lab = torch.cat(((lightness + 1) * 50, colour * 110), 1).detach()
        return lab_to_rgb(lab) * 2 - 1
