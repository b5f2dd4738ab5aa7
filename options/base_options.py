"""Options of training and testing alike, and how a command line becomes the final `opt`.

An option's range, and whether resuming a run may change it, stand in its `add_argument`: see
`options.parser.Parser`. Those of one model or dataset stand in its `modify_commandline_options`.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import data
import models
from data.loader import default_num_threads
from data.transforms import PREPROCESS
from models.networks import DISCRIMINATORS, GENERATORS, INITS, NORMS, canonical_norm, same_weights
from options import checks
from options.parser import HelpFormatter, Parser
from util import devices, distributed, precision
from util.errors import UserError

NEEDS_DATA = (
    "needs --dataroot, the folder of the dataset; python scripts/make_demo_dataset.py draws one"
)


class BaseOptions:
    """What `train.py` and `test.py` share; a subclass adds its tier in `initialize`."""

    isTrain: bool
    program: str
    parser: Parser  # of all options that there are
    given: set[str]  # the names of those that the command line has
    problems: list[str]  # everything that is wrong with them

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The final options of a command line, or of that of the running program.

        Beside the options: `isTrain`, `device` (torch.device), `gpu_ids` (list of int, empty on
        the CPU). SystemExit with status 2 after one message that holds all problems.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        self.problems = []
        self.parser = self.build_parser(argv)
        opt, _, _ = self.parser.read(argv)
        with self.collecting():
            opt.name = full_name(opt)
            self.take_saved(opt, argv)
        self.parser.add_argument("-h", "--help", action="help", help="show this model's options")

        opt, self.given, wrong = self.parser.read(argv)
        wrong = self.problems + wrong + ([] if opt.dataroot or self.problems else [NEEDS_DATA])
        self.problems = []
        with self.collecting():
            self.finish(opt)
        with self.collecting():
            self.problems.extend(checks.problems(opt))
        with self.collecting():
            device = devices.choose_device(opt.gpu_ids if "gpu_ids" in self.given else None)
            opt.device, opt.gpu_ids = device, [device.index] if device.type == "cuda" else []
            opt.precision = opt.precision or precision.default(device)
            self.problems.extend(filter(None, [precision.problem(device, opt.precision)]))
        wrong += without_consequences(self.problems, wrong)
        if wrong:
            distributed.print_error_once(f"{self.program}: error: " + "\n".join(wrong))
            raise SystemExit(2)
        self.mention(opt)
        return opt

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Within this block a UserError becomes one more problem."""
        try:
            yield
        except UserError as error:
            self.problems.append(str(error))

    def build_parser(self, argv: Sequence[str]) -> Parser:
        """The whole tree for the model and the dataset that `argv`, right or wrong, names."""
        parser = Parser(
            prog=self.program,
            usage="%(prog)s --dataroot DIR --name NAME --model MODEL [options]",
            description=self.__doc__,
            formatter_class=HelpFormatter,
            add_help=False,  # until the tree is complete
            conflict_handler="resolve",  # a plug-in's option wins over one of ours
        )
        parser._optionals.title = "options of this model and dataset"
        self.initialize(parser)
        models.get_option_setter(parser.read(argv)[0].model)(parser, self.isTrain)
        data.get_option_setter(parser.read(argv)[0].dataset_mode)(parser, self.isTrain)
        return parser

    def take_saved(self, opt: argparse.Namespace, argv: Sequence[str]) -> None:
        """Make what an earlier program saved in the experiment's folder the parser's defaults."""

    def finish(self, opt: argparse.Namespace) -> None:
        """Settle the values that follow from others."""
        opt.isTrain = self.isTrain
        with self.collecting():
            opt.name = full_name(opt)
        if opt.num_threads is None:
            dataset = data.find_dataset_using_name(opt.dataset_mode)
            opt.num_threads = default_num_threads(opt.cache == "ram" and dataset.quick_from_cache)

    def conflicts(self, opt: argparse.Namespace, saved: Mapping[str, Any]) -> str:
        """The given options that a run or its checkpoints, `saved` with others, refuse; or ""."""
        given, parser = self.given, self.parser
        if "batch_size" in given:  # of one rank; what counts is the batch of all
            given = given - {"batch_size"} | {"global_batch_size"}
        found = []
        for name in sorted(given & saved.keys()):
            value, before = vars(opt)[name], saved[name]
            same = value == before or (name == "norm" and same_weights(value, before))
            if not same and parser.on_resume(name) != "may change":
                found.append(f"{parser.flag(name, value)} (it has {parser.flag(name, before)})")
        return ", ".join(found)

    def mention(self, opt: argparse.Namespace) -> None:
        """Print what is worth knowing of the options, now that they are accepted."""

    def initialize(self, parser: Parser) -> None:
        """Add what training and testing share; `Parser` explains the keywords."""
        # fmt: off
        add = parser.add_argument_group("experiment").add_argument
        launch = partial(add, on_resume="not restored")
        may_change = partial(add, on_resume="may change")
        may_change("--dataroot", help="folder of the dataset (has train, test or trainA, trainB)")
        launch("--name", default="experiment_name", help="name of the experiment and its folders")
        launch("--suffix", default="", help="appended to --name, e.g. {model}_size{load_size}")
        launch("--checkpoints_dir", default="./checkpoints", help="where experiments are saved")
        launch("--gpu_ids", default="0", help="GPU, -1: CPU; else %(default)s or the best device")
        launch("--epoch", default="latest", help="which epoch to load: a number or latest")
        launch("--load_iter", type=int, default=0, least=0, help="load iter_N instead, if over 0")
        add("--seed", type=int, default=0, least=0, most=2**63 - 1, help="seed of all randomness")
        add("--precision", choices=precision.PRECISIONS, help="fp32 is exact; bf16 and fp16 are "
            "faster and coarser; not given, tf32 on CUDA, which is in between, else fp32")
        add("--compile", action="store_true", help="compile the networks: slow to start, then fast")
        may_change("--verbose", action="store_true", help="print the networks layer by layer")
        may_change("--use_wandb", action="store_true", help="log to Weights & Biases as well")
        may_change("--wandb_project_name", default="CycleGAN-and-pix2pix", help="project at wandb")
        may_change("--show_bands", type=int, nargs=3, default=[1, 2, 3], least=1,
            metavar=("R", "G", "B"), help="channels that pages show as red, green and blue")
        may_change("--display_winsize", type=int, default=256, least=1, help="image width in pages")

        model = parser.add_argument_group("model")
        add = model.add_argument
        add("--model", type=lambda name: models.find_model_using_name(name) and name,
            default="cycle_gan", help=f"one of: {', '.join(models.names())}")
        add("--input_nc", type=int, default=3, least=1, help="channels of the input: 3 for RGB")
        add("--output_nc", type=int, default=3, least=1, help="channels of the output: 1 for grey")
        add("--ngf", type=int, default=64, least=1, help="channels of the generator's first layer")
        add("--ndf", type=int, default=64, least=1, help="first layer of the discriminator")
        add("--netG", default="resnet_9blocks", choices=GENERATORS, help="generator network")
        add("--netD", default="basic", choices=DISCRIMINATORS, help="discriminator; basic: 70x70")
        add("--n_layers_D", type=int, default=3, least=1, help="depth of --netD n_layers")
        add("--norm", type=canonical_norm, default="instance", choices=NORMS,
            help="norm layer; for batch norm on several GPUs syncbatch")
        add("--init_type", default="normal", choices=INITS, help="initialisation of the weights")
        add("--init_gain", type=float, default=0.02, least=0, help="gain of --init_type")
        either = model.add_mutually_exclusive_group().add_argument
        either("--no_dropout", action="store_true", help="generator without dropout")
        either("--dropout", dest="no_dropout", action="store_false", help="generator with dropout")

        add = parser.add_argument_group("data").add_argument
        add("--dataset_mode", type=lambda name: data.find_dataset_using_name(name) and name,
            default="unaligned", help=f"one of: {', '.join(data.dataset_modes())}")
        add("--direction", default="AtoB", choices=["AtoB", "BtoA"], help="A to B, or B to A")
        add("--serial_batches", action="store_true", help="take the images in order, unshuffled")
        add("--num_threads", type=int, least=0, on_resume="not restored",
            help="processes that load images; not given, as many as there are cores, 8 at most")
        add("--cache", default="none", choices=["none", "ram"], on_resume="may change",
            help="ram: decode and resize the images once, into a file kept in memory")
        add("--batch_size", type=int, default=1, least=1, help="images in a batch, per process")
        add("--load_size", type=int, default=286, least=1, help="scale images to this size")
        add("--crop_size", type=int, default=256, least=1, help="then crop to this size")
        add("--max_dataset_size", type=count_or_inf, default=math.inf, least=1, most=math.inf,
            help="use at most this many images of the dataset")
        for side in ("", "_A", "_B"):
            add(f"--value_range{side}", type=float, nargs=2, metavar=("LO", "HI"),
                help=f"values of {side[1:] or 'A and B'} that are black and white; not given, all "
                "that 8 or 16 bits can hold")
        add("--preprocess", default="resize_and_crop", choices=PREPROCESS, help="scale and crop")
        add("--no_flip", action="store_true", help="do not mirror images at random")
        # fmt: on


def without_consequences(more: Sequence[str], told: Sequence[str]) -> list[str]:
    """The new ones of `more` problems: a wrong value, told already, leads to others."""
    flags = {found[1] for problem in told if (found := re.match(r"(?:argument )?(--\w+)", problem))}
    return [p for p in dict.fromkeys(more) if not flags.intersection(re.findall(r"--\w+", p))]


def full_name(opt: argparse.Namespace) -> str:
    """--name with its --suffix; UserError if that asks for what is no option."""
    try:
        return opt.name + ("_" + opt.suffix.format(**vars(opt)) if opt.suffix else "")
    except (KeyError, IndexError, ValueError, AttributeError):
        remedy = "use option names between braces, as in {model}_{netG}_size{load_size}"
        raise UserError(f"--suffix {opt.suffix}: {remedy}") from None


def count_or_inf(text: str) -> int | float:
    """A whole number, or inf for no limit."""
    try:
        return math.inf if text == "inf" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no whole number, nor inf") from None
