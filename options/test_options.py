"""Options of test.py."""

import argparse
from collections.abc import Sequence

from options.base_options import BaseOptions, count_or_inf, full_name
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

    def initialize(self, parser: Parser) -> None:
        """Add the options of testing."""
        super().initialize(parser)
        add = parser.add_argument_group("testing").add_argument
        add("--phase", default="test", help="which part of the dataset: train, val, test, …")
        add("--results_dir", default="./results/", help="where results are saved")
        add("--num_test", type=count_or_inf, default=float("inf"), help="how many images to test")
        add("--aspect_ratio", type=float, default=1.0, help="width over height of the results")
        add("--eval", action="store_true", help="fixed batch norm and no dropout, as model.eval()")
        parser.set_defaults(model="test", load_size=parser.get_default("crop_size"))

    def build_parser(self, argv: Sequence[str]) -> Parser:
        """The tree, with what training saved beside the checkpoint as defaults."""
        parser = super().build_parser(argv)
        opt, _ = parser.parse_known_args([a for a in argv if a not in ("-h", "--help")])
        opt.name = full_name(opt)
        self.saved_in = checkpoint.folder(opt)
        saved = read_options(self.saved_in, (*NETWORK, *DEFAULTS, "model"), parser.accepts)
        self.trained_model = saved.pop("model", None)
        both = {"input_nc", "output_nc"} <= saved.keys()
        if opt.model == "test" and opt.model_suffix == "_B" and both:  # CycleGAN's B to A
            saved["input_nc"], saved["output_nc"] = saved["output_nc"], saved["input_nc"]
        self.trained = {k: v for k, v in saved.items() if k in NETWORK}
        own_load_size = parser.get_default("load_size") != parser.get_default("crop_size")
        parser.set_defaults(**saved)
        if not own_load_size:  # the whole picture, unless a model or dataset has its own default
            parser.set_defaults(load_size=parser.get_default("crop_size"))
        self.load_follows_crop = not own_load_size
        return parser

    def finish(
        self, opt: argparse.Namespace, given: set[str], parser: Parser, problems: list[str]
    ) -> None:
        """In order, uncropped; and no flag may contradict the checkpoint."""
        super().finish(opt, given, parser, problems)
        if self.load_follows_crop and "load_size" not in given:
            opt.load_size = opt.crop_size
        opt.serial_batches, opt.no_flip = True, True
        problems += [
            f"{parser.flag(key, vars(opt)[key])} contradicts the checkpoints in {self.saved_in}, "
            f"trained with {parser.flag(key, value)}; leave the flag out"
            for key, value in self.trained.items()
            if key in given and not interchangeable(key, vars(opt)[key], value, opt.netG)
        ]

    def mention_ignored(self, opt: argparse.Namespace, given: set[str]) -> None:
        """Say what a forgotten --model does."""
        super().mention_ignored(opt, given)
        if "model" not in given and self.trained_model not in (None, "test"):
            distributed.print0(
                "without --model, the generator is applied to every picture under --dataroot; to "
                f"test as in training: --model {self.trained_model}"
            )


def one_by_one(opt: argparse.Namespace) -> argparse.Namespace:
    """The options of a loader that yields single images: they make batches by their sizes later."""
    return argparse.Namespace(**{**vars(opt), "batch_size": 1})


def interchangeable(key: str, given: object, trained: object, netG: str) -> bool:
    """Whether weights trained with one value of an option work with another."""
    if key == "norm" and {given, trained} <= {"batch", "syncbatch"}:
        return True
    if key == "no_dropout" and netG.startswith("unet"):
        return True  # dropout is no part of a U-Net's keys
    return given == trained
