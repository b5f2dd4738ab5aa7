"""Options of training and testing alike, and how a command line becomes the final `opt`."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import data
import models
from data.loader import default_num_threads
from data.transforms import PREPROCESS
from models.networks import DISCRIMINATORS, GENERATORS, INITS, NORMS, canonical_norm
from options import checks
from options.parser import HelpFormatter, Parser
from util import devices, distributed
from util.errors import UserError
from util.precision import PRECISIONS

NUM_THREADS = 4  # the original's; what nobody types is settled in `finish`
VISDOM = ("display_id", "display_server", "display_env", "display_port", "display_ncols")


class BaseOptions:
    """What `train.py` and `test.py` share; a subclass adds its tier in `initialize`."""

    isTrain: bool
    program: str
    needs_data = "needs --dataroot, the folder of the dataset"

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Turn a command line into the final options.

        Args:
            argv: the arguments; None for those of the running program.

        Returns:
            Every option by name, and `isTrain`, `device` (torch.device), `gpu_ids` (list of int,
            empty on the CPU).

        Raises:
            SystemExit: with status 2 after one message that holds all problems found, or with 0
                after `--help`.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        problems: list[str] = []
        parser, opt, given = Parser(prog=self.program), None, set()
        with collected(problems):
            parser = self.build_parser(argv)
            opt, unknown = parser.parse_known_args(argv)
            given = parser.given(argv)
            problems += parser.unknown(unknown)
            if not opt.dataroot:
                problems.append(self.needs_data)
            self.finish(opt, given, parser, problems)
            problems += checks.problems(opt)
        with collected(problems):
            gpu_ids = opt.gpu_ids if opt and "gpu_ids" in given else None
            device = devices.choose_device(gpu_ids)
        if problems:
            parser.error("\n".join(problems))
        opt.device, opt.gpu_ids = device, [device.index] if device.type == "cuda" else []
        self.mention_ignored(opt, given)
        return opt

    def finish(
        self, opt: argparse.Namespace, given: set[str], parser: Parser, problems: list[str]
    ) -> None:
        """Settle the values that follow from others; problems met on the way are appended."""
        opt.isTrain = self.isTrain
        with collected(problems):
            opt.name = full_name(opt)
        if opt.num_threads == NUM_THREADS and "num_threads" not in given:  # no plug-in's default
            dataset = data.find_dataset_using_name(opt.dataset_mode)
            opt.num_threads = default_num_threads(opt.cache == "ram" and dataset.quick_from_cache)

    def build_parser(self, argv: Sequence[str]) -> Parser:
        """The whole tree for the model and the dataset that `argv` names."""
        parser = Parser(
            prog=self.program,
            usage="%(prog)s --dataroot DIR --name NAME --model MODEL [options]",
            description=self.__doc__,
            formatter_class=HelpFormatter,
            add_help=False,
            conflict_handler="resolve",  # a plug-in's option wins over one of ours
        )
        self.initialize(parser)
        for setter in (self._model_setter, self._dataset_setter):
            self.set_first_defaults(parser)
            opt, _ = parser.parse_known_args(argv)
            parser = setter(opt)(parser, self.isTrain)
        parser.add_argument("-h", "--help", action="help", help="show the options of this model")
        return parser

    def set_first_defaults(self, parser: Parser) -> None:
        """Choose which model and dataset take part in building the parser, if nobody types it."""

    def _model_setter(self, opt: argparse.Namespace) -> Callable:
        return models.get_option_setter(opt.model)

    def _dataset_setter(self, opt: argparse.Namespace) -> Callable:
        return data.get_option_setter(opt.dataset_mode)

    def initialize(self, parser: Parser) -> None:
        """Add the options that training and testing share."""
        self._add_experiment(parser.add_argument_group("experiment"))
        self._add_model(parser.add_argument_group("model"))
        self._add_data(parser.add_argument_group("data"))
        parser._optionals.title = "of this model and dataset"

    @staticmethod
    def _add_experiment(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--dataroot", help="folder of the dataset (train, test or trainA, trainB, … in it)")
        add("--name", default="experiment_name", help="name of the experiment and of its folders")
        add("--suffix", default="", help="appended to --name, e.g. {model}_{netG}_size{load_size}")
        add("--checkpoints_dir", default="./checkpoints", help="where experiments are saved")
        add("--gpu_ids", default="0", help="GPU to use, -1 for the CPU; not given, the best device")
        add("--seed", type=int, default=0, help="seed of all randomness; repeats a run exactly")
        add(
            "--precision",
            default="fp32",
            choices=PRECISIONS,
            help="fp32 is exact, tf32 faster on CUDA; bf16 and fp16 are faster and coarser",
        )
        add("--compile", action="store_true", help="compile the networks: slow to start, then fast")
        add("--epoch", default="latest", help="which epoch to load: a number or latest")
        add("--load_iter", type=int, default=0, help="load iter_N instead of an epoch, if over 0")
        add("--verbose", action="store_true", help="print the networks layer by layer")
        add("--use_wandb", action="store_true", help="log to Weights & Biases as well")
        add("--wandb_project_name", default="CycleGAN-and-pix2pix", help="project name there")
        add("--display_winsize", type=int, default=256, help="width of a picture in the pages")

    @staticmethod
    def _add_model(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--model", default="cycle_gan", help=f"one of: {', '.join(models.names())}")
        add("--input_nc", type=int, default=3, help="channels of the input: 3 RGB, 1 grey")
        add("--output_nc", type=int, default=3, help="channels of the output: 3 RGB, 1 grey")
        add("--ngf", type=int, default=64, help="generator channels in the layer next to the image")
        add("--ndf", type=int, default=64, help="discriminator channels in its first layer")
        add("--netG", default="resnet_9blocks", choices=GENERATORS, help="generator")
        add("--netD", default="basic", choices=DISCRIMINATORS, help="discriminator; basic: 70x70")
        add("--n_layers_D", type=int, default=3, help="depth of --netD n_layers")
        add(
            "--norm",
            type=canonical_norm,
            default="instance",
            choices=NORMS,
            help="norm layer; for batch norm on several GPUs syncbatch",
        )
        add("--init_type", default="normal", choices=INITS, help="initialisation of the weights")
        add("--init_gain", type=float, default=0.02, help="its standard deviation or gain")
        dropout = group.add_mutually_exclusive_group()
        dropout.add_argument(
            "--no_dropout", action="store_true", help="no dropout in the generator"
        )
        dropout.add_argument(
            "--dropout", dest="no_dropout", action="store_false", help="dropout in the generator"
        )

    @staticmethod
    def _add_data(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add(
            "--dataset_mode", default="unaligned", help=f"one of: {', '.join(data.dataset_modes())}"
        )
        add("--direction", default="AtoB", choices=["AtoB", "BtoA"], help="from which to which")
        add("--serial_batches", action="store_true", help="take the images in order, unshuffled")
        add(
            "--num_threads",
            type=int,
            default=NUM_THREADS,
            help="processes that load images; not given, as many as there are cores, 8 at most",
        )
        add(
            "--cache",
            default="none",
            choices=["none", "ram"],
            help="ram: decode and resize the images once, for all runs, into a file kept in memory",
        )
        add("--batch_size", type=int, default=1, help="images in a batch, per process")
        add("--load_size", type=int, default=286, help="scale images to this size")
        add("--crop_size", type=int, default=256, help="then crop to this size")
        add(
            "--max_dataset_size",
            type=count_or_inf,
            default=float("inf"),
            help="use at most this many images of the dataset",
        )
        add("--preprocess", default="resize_and_crop", choices=PREPROCESS, help="scaling, cropping")
        add("--no_flip", action="store_true", help="do not mirror images at random")

    def mention_ignored(self, opt: argparse.Namespace, given: set[str]) -> None:
        """Say what was accepted for the sake of old scripts and does nothing."""
        visdom = sorted(given.intersection(VISDOM))
        if visdom:
            distributed.print0(
                f"{', '.join('--' + dest for dest in visdom)}: ignored, there is no visdom server; "
                f"the page is {opt.checkpoints_dir}/{opt.name}/web/index.html"
            )


@contextmanager
def collected(problems: list[str]) -> Iterator[None]:
    """Within this block a UserError becomes one more problem."""
    try:
        yield
    except UserError as error:
        problems.append(str(error))


def full_name(opt: argparse.Namespace) -> str:
    """--name with its --suffix; UserError if that asks for what is no option."""
    try:
        return opt.name + ("_" + opt.suffix.format(**vars(opt)) if opt.suffix else "")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"--suffix {opt.suffix} asks for {error}; between braces it takes option names, as in "
            "{model}_{netG}_size{load_size}"
        ) from None


def count_or_inf(text: str) -> int | float:
    """A whole number, or inf for no limit."""
    try:
        return float("inf") if text == "inf" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no whole number, nor inf") from None
