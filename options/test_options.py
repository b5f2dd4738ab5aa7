"""Options of test.py."""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from data import find_dataset_using_name
from data.kinds import saved_kinds
from data.outputs import FORMATS
from options.base_options import BaseOptions, count_or_inf
from options.parser import Parser
from util import checkpoint, distributed
from util.run_record import read_options

# What a checkpoint fixes: given differently, it is an error. The others are better defaults.
NETWORK = ("input_nc", "output_nc", "ngf", "netG", "norm", "no_dropout")
DEFAULTS = ("direction", "crop_size")


class TestOptions(BaseOptions):
    """Test a trained model on a folder of images."""

    isTrain = False
    program = "test.py"
    trained: Mapping[str, Any] = {}  # what the checkpoint fixes
    trained_model: str | None = None
    load_follows_crop = False

    def initialize(self, parser: Parser) -> None:
        """Add the options of testing."""
        super().initialize(parser)
        # fmt: off
        add = parser.add_argument_group("testing").add_argument
        add("--phase", default="test", help="which part of the dataset: train, val, test, …")
        add("--results_dir", default="./results/", help="where results are saved")
        add("--num_test", type=count_or_inf, default=math.inf, least=1, most=math.inf,
            help="how many images to test")
        add("--tile", type=int, least=0, help="translate large images in tiles of this size; 0: "
            "never, not given: where the whole would not fit into memory")
        add("--format", choices=FORMATS, help="of the results; not given, as in training")
        add("--only_output", action="store_true",
            help="write what the model makes, named as the inputs, and no page")
        add("--aspect_ratio", type=float, default=1.0, least=0.01, most=100, help="width / height")
        add("--eval", action="store_true", help="fixed batch norm and no dropout, as model.eval()")
        # fmt: on
        parser.set_defaults(model="test", load_size=parser.get_default("crop_size"))

    def take_saved(self, opt: argparse.Namespace, argv: Sequence[str]) -> None:
        """Make what training saved beside the checkpoint the defaults."""
        folder = checkpoint.folder(opt)
        kinds = read_options(folder, ("model", "dataset_mode"), self.parser.accepts)
        self.trained_model, mode = kinds.get("model"), kinds.get("dataset_mode")
        of_the_dataset: set[str] = set()
        if mode and opt.model == self.trained_model:
            self.parser = self.build_parser([f"--dataset_mode={mode}", *argv])
            self.parser.set_defaults(dataset_mode=mode)
            of_the_dataset = self.added_by_dataset(mode)
        parser = self.parser
        saved = read_options(folder, (*NETWORK, *DEFAULTS, *of_the_dataset), parser.accepts)
        both = {"input_nc", "output_nc"} <= saved.keys()
        if opt.model == "test" and opt.model_suffix == "_B" and both:  # CycleGAN's B to A
            saved["input_nc"], saved["output_nc"] = saved["output_nc"], saved["input_nc"]
        self.trained = {k: v for k, v in saved.items() if k in NETWORK}
        # the whole image, unless a model or dataset has its own default
        self.load_follows_crop = parser.get_default("load_size") == parser.get_default("crop_size")
        for side, kind in saved_kinds(folder).items():
            if not kind.full_range:
                saved[f"value_range_{side}"] = [kind.low, kind.high]
        parser.set_defaults(**saved)

    def added_by_dataset(self, mode: str) -> set[str]:
        """The names of the options that the dataset of the training has by itself."""
        parser = Parser(add_help=False)
        find_dataset_using_name(mode).modify_commandline_options(parser, False)
        return {action.dest for action in parser._actions}

    def finish(self, opt: argparse.Namespace) -> None:
        """In order, uncropped; and no flag may contradict the checkpoint."""
        super().finish(opt)
        if self.load_follows_crop and "load_size" not in self.given:
            opt.load_size = opt.crop_size
        opt.serial_batches, opt.no_flip = True, True
        if opt.model == "test" and self.trained_model == "colorization":
            self.problems.append(
                "--model test: this generator makes colours for a lightness, not images of images; "
                "use --model colorization"
            )
        for side in "AB" if "value_range" in self.given else "":
            if f"value_range_{side}" not in self.given:  # but a default, from the training
                vars(opt)[f"value_range_{side}"] = None
        fixed = dict(self.trained)
        if opt.netG.startswith("unet"):
            fixed.pop("no_dropout", None)  # dropout is no part of a U-Net's keys
        others = self.conflicts(opt, fixed)
        if others:
            self.problems.append(
                f"the training in {checkpoint.folder(opt)} had other networks than you give: "
                f"{others}; leave these flags out"
            )

    def mention(self, opt: argparse.Namespace) -> None:
        """Say what a forgotten --model does."""
        if "model" not in self.given and self.trained_model not in (None, "test"):
            distributed.print0(
                "without --model, the generator is applied to every image under --dataroot; to "
                f"test as in training: --model {self.trained_model}"
            )


def with_batch_size_1(opt: argparse.Namespace) -> argparse.Namespace:
    """The options of a loader that yields single images: they make batches by their sizes later."""
    return argparse.Namespace(**{**vars(opt), "batch_size": 1})
