"""Options of train.py."""

import argparse

from models.networks import GAN_MODES, LR_POLICIES
from options.base_options import BaseOptions, collected
from options.parser import Parser
from util import checkpoint, distributed

GETTING_STARTED = """needs --dataroot, the folder of the data set, for example:
  python scripts/make_demo_dataset.py      # draws a small data set of facades
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
        add("--phase", default="train", help="which part of the data set: train, val, test, …")
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
        add("--save_by_iter", action="store_true", help="save iter_N rather than latest")

    @staticmethod
    def _add_visdom(group: argparse._ArgumentGroup) -> None:
        group.add_argument("--display_ncols", type=int, default=4, help=argparse.SUPPRESS)
        group.add_argument("--display_id", type=int, default=1, help=argparse.SUPPRESS)
        group.add_argument("--display_server", default="http://localhost", help=argparse.SUPPRESS)
        group.add_argument("--display_env", default="main", help=argparse.SUPPRESS)
        group.add_argument("--display_port", type=int, default=8097, help=argparse.SUPPRESS)

    def finish(
        self, opt: argparse.Namespace, typed: set[str], parser: Parser, problems: list[str]
    ) -> None:
        """Settle norm and batch for this number of ranks, and the epoch to continue with."""
        super().finish(opt, typed, parser, problems)
        with collected(problems):
            opt.norm = distributed.norm_for_job(opt.norm, typed="norm" in typed)
        if opt.global_batch_size is None:
            opt.global_batch_size = opt.batch_size * distributed.world_size()
        elif "batch_size" in typed:
            problems.append("--batch_size (per process) and --global_batch_size: type one of them")
        else:
            with collected(problems):
                opt.batch_size = distributed.split_batch(opt.global_batch_size)
        if opt.continue_train and "epoch_count" not in typed:
            with collected(problems):
                opt.epoch_count = distributed.from_main(lambda: self._next_epoch(opt))

    @staticmethod
    def _next_epoch(opt: argparse.Namespace) -> int:
        state = checkpoint.load_train_state(checkpoint.folder(opt), checkpoint.tag(opt))
        return state["next_epoch"] if state else opt.epoch_count
