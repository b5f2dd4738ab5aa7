"""Options of train.py."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from models.networks import GAN_MODES, LR_POLICIES
from options.base_options import BaseOptions, collected, full_name
from options.parser import Parser
from options.resume import conflicts, taken_over
from util import checkpoint, distributed, restarts
from util.errors import UserError
from util.run_record import plain_values

GETTING_STARTED = """needs --dataroot, the folder of the dataset, for example:
  python scripts/make_demo_dataset.py      # draws a small dataset of facades
  python train.py --dataroot ./datasets/demo --name demo --model pix2pix --direction BtoA
--help lists the options of the chosen --model"""


class TrainOptions(BaseOptions):
    """Train pix2pix or CycleGAN."""

    isTrain = True
    program = "train.py"
    needs_data = GETTING_STARTED

    def initialize(self, parser: Parser) -> None:
        """Add the options of training."""
        super().initialize(parser)
        self._add_schedule(parser.add_argument_group("training"))
        self._add_output(parser.add_argument_group("logs, pages and checkpoints"))
        self._add_visdom(parser.add_argument_group("accepted and ignored (visdom)"))

    @staticmethod
    def _add_schedule(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--phase", default="train", help="which part of the dataset: train, val, test, …")
        add("--n_epochs", type=int, default=100, help="epochs at the initial learning rate")
        add("--n_epochs_decay", type=int, default=100, help="epochs of decay to zero after them")
        add("--epoch_count", type=int, default=1, help="the number of the first epoch")
        add("--continue_train", action="store_true", help="go on from the last checkpoint")
        add("--lr", type=float, default=0.0002, help="initial learning rate of Adam")
        add(
            "--global_batch_size",
            type=int,
            help="images in a batch over all processes; in place of --batch_size",
        )
        add("--accumulate", type=int, default=1, help="compute a batch in parts, for memory")
        add(
            "--checkpoint_activations",
            action="store_true",
            help="compute activations twice rather than keep them: less memory",
        )
        add("--dist_timeout", type=float, default=10.0, help="minutes to wait for other ranks")
        add("--beta1", type=float, default=0.5, help="momentum of Adam")
        add("--lr_policy", default="linear", choices=LR_POLICIES, help="learning rate schedule")
        add("--lr_decay_iters", type=int, default=50, help="--lr_policy step: epochs in a step")
        add("--gan_mode", default="lsgan", choices=GAN_MODES, help="adversarial loss")
        add("--lambda_gp", type=float, default=10.0, help="wgangp: weight of gradient penalty")
        add("--pool_size", type=int, default=50, help="generated images kept to show D; 0: none")

    @staticmethod
    def _add_output(group: argparse._ArgumentGroup) -> None:
        add = group.add_argument
        add("--print_freq", type=int, default=100, help="images between two lines of losses")
        add("--display_freq", type=int, default=400, help="images between two picture updates")
        add("--update_html_freq", type=int, default=1000, help="the same; the smaller one counts")
        add("--no_html", action="store_true", help="no page in checkpoints/NAME/web")
        add("--save_latest_freq", type=int, default=5000, help="images between saves of latest")
        add("--save_epoch_freq", type=int, default=5, help="epochs between checkpoints")
        add("--save_by_iter", action="store_true", help="keep iter_N of each of these saves")
        add("--keep_last", type=int, help="keep this many checkpoints of epochs; default: all")

    @staticmethod
    def _add_visdom(group: argparse._ArgumentGroup) -> None:
        group.add_argument("--display_ncols", type=int, default=4, help=argparse.SUPPRESS)
        group.add_argument("--display_id", type=int, default=1, help=argparse.SUPPRESS)
        group.add_argument("--display_server", default="http://localhost", help=argparse.SUPPRESS)
        group.add_argument("--display_env", default="main", help=argparse.SUPPRESS)
        group.add_argument("--display_port", type=int, default=8097, help=argparse.SUPPRESS)

    def build_parser(self, argv: Sequence[str]) -> Parser:
        """The tree; with the options of the run that is continued, if one is, as defaults."""
        self.saved: dict[str, Any] = {}
        self.header: dict[str, Any] | None = None
        parser = super().build_parser(argv)
        opt, _ = parser.parse_known_args([a for a in argv if a not in ("-h", "--help")])
        with suppress(UserError):  # a bad --suffix is told in `finish`, with all other problems
            opt.name = full_name(opt)
        if opt.continue_train or restarts.was_restarted():
            self.header = distributed.from_main(lambda: _header(opt))
        if self.header and self.header["nothing"]:
            self.needs_data, self.header = self.header["nothing"], None
        if self.header:
            self.saved = taken_over(self.header["options"], parser)
            parser = super().build_parser(argv)  # once more: it may be of another --model
            self.saved = taken_over(self.header["options"], parser)
            parser.set_defaults(**self.saved)
        return parser

    def set_first_defaults(self, parser: Parser) -> None:
        """Those of the run that is continued."""
        names = {"model", "dataset_mode"} & self.saved.keys()
        parser.set_defaults(**{name: self.saved[name] for name in names})

    def finish(
        self, opt: argparse.Namespace, given: set[str], parser: Parser, problems: list[str]
    ) -> None:
        """Settle norm and batch for this number of ranks, and where to go on."""
        super().finish(opt, given, parser, problems)
        with collected(problems):
            opt.norm = distributed.norm_for_job(opt.norm, given="norm" in given)
        self._settle_batch(opt, given, problems)
        opt.resume_tag = None
        if self.header:
            self._settle_resume(opt, given, parser, problems)
            if opt.epoch_count > opt.n_epochs + opt.n_epochs_decay and not problems:
                distributed.print0(
                    f"{opt.name} is trained to the end, epoch {opt.epoch_count - 1}; its weights "
                    f"are in {checkpoint.folder(opt)}. More epochs: --n_epochs, --n_epochs_decay"
                )
                raise SystemExit(0)

    def _settle_batch(self, opt: argparse.Namespace, given: set[str], problems: list[str]) -> None:
        both = {"batch_size", "global_batch_size"} <= given
        if both:
            problems.append("--batch_size (per process) and --global_batch_size: type one of them")
        before = self.header["options"] if self.header else {}
        opt.first_batch_size = before.get("first_batch_size", opt.batch_size)
        same = opt.batch_size == opt.first_batch_size  # the same command, on other ranks perhaps
        if "batch_size" in given and not both and not (self.header and same):
            opt.global_batch_size = None
        if opt.global_batch_size is None:
            opt.global_batch_size = opt.batch_size * distributed.world_size()
        with collected(problems):
            opt.batch_size = distributed.split_batch(opt.global_batch_size)

    def _settle_resume(
        self, opt: argparse.Namespace, given: set[str], parser: Parser, problems: list[str]
    ) -> None:
        tag, epoch = self.header["tag"], self.header["epoch"]
        if self.header["by"]:
            opt.continue_train, opt.epoch, opt.load_iter = True, tag, 0
            given = given - {"epoch_count"}
            distributed.print0(
                f"{self.header['by']} has started this job again; it goes on from {tag}"
            )
        opt.resume_tag = tag
        path = checkpoint.state_path(checkpoint.folder(opt), tag)
        if "epoch_count" in given and opt.epoch_count != epoch:
            problems.append(
                f"--epoch_count {opt.epoch_count}: {path} goes on in epoch {epoch}; leave the flag "
                "out, or remove that file to start from the weights only"
            )
        opt.epoch_count = epoch
        others = list(conflicts(opt, self._compared(opt, given), self.saved, parser))
        if others:
            problems.append(
                "--continue_train keeps the options of the run, and these would make it another: "
                f"{', '.join(others)}; leave them out, or start a new run (--name)"
            )

    def _compared(self, opt: argparse.Namespace, given: set[str]) -> set[str]:
        """The given options to be compared with the run's: of the batch, the global one counts."""
        if "batch_size" in given:
            given = given - {"batch_size"} | {"global_batch_size"}
        return given


def _header(opt: argparse.Namespace) -> dict[str, Any] | None:
    """What parsing has to know of the training state to go on from; rank 0 has the file."""
    folder = checkpoint.folder(opt)
    by = restarts.started_again(folder)
    if not (by or opt.continue_train):
        return None
    tag = "latest" if by else checkpoint.tag(opt)
    state = checkpoint.load_train_state(folder, tag)
    if state is None:
        missing = checkpoint.what_is_missing(folder, tag)
        return {"nothing": f"--continue_train: {missing}"} if missing else None
    return {
        "nothing": None,
        "by": by,
        "tag": tag,
        "epoch": max(1, state["progress"]["epoch"]),
        "options": plain_values(state["options"]),
    }
