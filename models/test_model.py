"""One generator applied to one folder of images: `--model test`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from models import networks
from models.base_model import BaseModel


class TestModel(BaseModel):
    """Runs `{epoch}_net_G{model_suffix}.pth`; --model_suffix _A is CycleGAN's A to B."""

    __test__ = False  # not a test class for pytest
    needs = ("A",)

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """One folder of images, and which of several generators."""
        parser.set_defaults(dataset_mode="single")
        help = "_A or _B: that generator of a CycleGAN"
        parser.add_argument("--model_suffix", default="", help=help)
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> Iterator[str]:
        """This model cannot be trained."""
        if opt.isTrain:
            yield "--model test only tests; train with --model pix2pix or --model cycle_gan"

    def __init__(self, opt: Namespace):
        super().__init__(opt)
        self.visual_names = ["real", "fake"]
        self.model_names = [f"G{opt.model_suffix}"]
        self.netG = networks.build_G(opt, opt.input_nc, opt.output_nc)
        setattr(self, f"netG{opt.model_suffix}", self.netG)

    def set_input(self, input: Mapping[str, Any]) -> None:
        """Take an image, which a dataset of one side calls A."""
        self.real = input["A"].to(self.device)
        self.image_paths = input["A_paths"]

    def forward(self) -> None:
        """G(real)."""
        self.fake = self.netG(self.real)

    def optimize_parameters(self) -> None:
        """Nothing to optimise."""
