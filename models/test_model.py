"""One generator applied to one folder of images: `--model test`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models import networks
from models.base_model import BaseModel
from util.errors import UserError


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

    def load_networks(self, tag: str | int) -> None:
        """Load the generator; UserError where there are only others, with their suffixes."""
        start = f"{tag}_net_G"
        names = (path.name for path in Path(self.save_dir).glob("*_net_G*.pth"))
        there = sorted(n[len(start) : -len(".pth")] for n in names if n.startswith(start))
        if there and self.opt.model_suffix not in there:
            files = " and ".join(f"{start}{suffix}.pth" for suffix in there)
            ways = [f"give --model_suffix {s}" if s else "leave --model_suffix out" for s in there]
            raise UserError(
                f"--model test: {self.save_dir} has no {start}{self.opt.model_suffix}.pth, but "
                f"{files}; {' or '.join(ways)}"
            )
        super().load_networks(tag)

    def set_input(self, input: Mapping[str, Any]) -> None:
        """Take an image, which a dataset of one side calls A."""
        self.real = input["A"].to(self.device)
        self.image_paths = input["A_paths"]

    def forward(self) -> None:
        """G(real)."""
        self.fake = self.netG(self.real)

    def optimize_parameters(self) -> None:
        """Nothing to optimise."""
