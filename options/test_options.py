"""Options of test.py."""

import argparse
from collections.abc import Sequence

from options.base_options import BaseOptions, count_or_inf
from options.parser import Parser
from options.saved import read_options
from util import checkpoint

# What a checkpoint fixes: typed differently, it is an error. The others are better defaults.
NETWORK = ("input_nc", "output_nc", "ngf", "netG", "norm", "no_dropout")
DEFAULTS = ("direction", "crop_size")
SAME = {("norm", "batch", "syncbatch"), ("norm", "syncbatch", "batch")}  # checkpoints interchange


class TestOptions(BaseOptions):
    """Test a trained model on a folder of images."""

    isTrain = False
    program = "test.py"

    def initialize(self, parser: Parser) -> None:
        """Add the options of testing."""
        super().initialize(parser)
        add = parser.add_argument_group("testing").add_argument
        add("--phase", default="test", help="which part of the data set: train, val, test, …")
        add("--results_dir", default="./results/", help="where results are saved")
        add("--num_test", type=count_or_inf, default=float("inf"), help="how many images to test")
        add("--aspect_ratio", type=float, default=1.0, help="width over height of the results")
        add("--eval", action="store_true", help="fixed batch norm and no dropout, as model.eval()")
        parser.set_defaults(model="test")

    def build_parser(self, argv: Sequence[str]) -> Parser:
        """The tree, with what training saved beside the checkpoint as defaults."""
        parser = super().build_parser(argv)
        opt, _ = parser.parse_known_args([a for a in argv if a not in ("-h", "--help")])
        super().finish(opt, set(), parser)
        kept = read_options(checkpoint.folder(opt), NETWORK + DEFAULTS, parser.accepts)
        self.trained = {k: v for k, v in kept.items() if k in NETWORK}
        parser.set_defaults(**kept)
        parser.set_defaults(load_size=parser.get_default("crop_size"))
        return parser

    def finish(self, opt: argparse.Namespace, typed: set[str], parser: Parser) -> list[str]:
        """One image at a time, in order, uncropped; and no flag may contradict the checkpoint."""
        problems = super().finish(opt, typed, parser)
        if "load_size" not in typed:
            opt.load_size = opt.crop_size
        opt.num_threads, opt.batch_size = 0, 1
        opt.serial_batches, opt.no_flip = True, True
        return problems + [
            f"{parser.flag(key, vars(opt)[key])} contradicts the checkpoints in "
            f"{checkpoint.folder(opt)}, trained with {parser.flag(key, value)}; leave the flag out"
            for key, value in self.trained.items()
            if key in typed and vars(opt)[key] != value and (key, vars(opt)[key], value) not in SAME
        ]
