"""Options of train.py."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from models.networks import GAN_MODES, LR_POLICIES
from options.base_options import BaseOptions
from options.parser import Parser
from util import checkpoint, distributed, restarts
from util.restarts import SavedRun

COMPILING = 60.0  # minutes, on the slowest rank, at most
VISDOM = {  # accepted and ignored
    "display_id": 1, "display_server": "http://localhost", "display_env": "main",
    "display_port": 8097, "display_ncols": 4,
}  # fmt: skip


class TrainOptions(BaseOptions):
    """Train pix2pix or CycleGAN."""

    isTrain = True
    program = "train.py"
    saved_run: SavedRun | None = None  # that is continued
    saved: Mapping[str, Any] = {}  # its options, as far as they are taken over

    def initialize(self, parser: Parser) -> None:
        """Add the options of training."""
        super().initialize(parser)
        # fmt: off
        add = parser.add_argument_group("training").add_argument
        launch = partial(add, on_resume="not restored")
        may_change = partial(add, on_resume="may change")
        add("--phase", default="train", help="which part of the dataset: train, val, test, …")
        may_change("--n_epochs", type=int, default=100, least=0, most=10**7, help="epochs at --lr")
        may_change("--n_epochs_decay", type=int, default=100, least=0, most=10**7,
            help="epochs of decay towards zero after them")
        launch("--epoch_count", type=int, default=1, least=1, help="number of the first epoch")
        launch("--continue_train", action="store_true", help="continue from the last checkpoint")
        add("--lr", type=float, default=0.0002, least=0, help="initial learning rate of Adam")
        add("--beta1", type=float, default=0.5, least=0, most=0.9999, help="momentum of Adam")
        add("--lr_policy", default="linear", choices=LR_POLICIES, help="learning rate schedule")
        add("--lr_decay_iters", type=int, default=50, least=1, help="--lr_policy step: epochs")
        add("--gan_mode", default="lsgan", choices=GAN_MODES, help="adversarial loss")
        add("--lambda_gp", type=float, default=10.0, least=0, help="weight of wgangp's penalty")
        add("--pool_size", type=int, default=50, least=0, help="generated images kept for D")
        add("--global_batch_size", type=int, least=1, help="--batch_size over all processes")
        may_change("--accumulate", type=int, default=1, least=1, help="compute a batch in parts")
        may_change("--checkpoint_activations", action="store_true", help="recompute to save memory")
        may_change("--no_cuda_graph", action="store_true", help="no recording of the steps on CUDA")
        may_change("--dist_timeout", type=float, default=10.0, least=0.1, most=10**6,
            help="minutes to wait for other ranks")

        add = parser.add_argument_group("logs, pages and checkpoints").add_argument
        may_change = partial(add, on_resume="may change")
        may_change("--print_freq", type=int, default=100, least=1, help="images per printed line")
        may_change("--display_freq", type=int, default=400, least=1, help="images per page update")
        may_change("--update_html_freq", type=int, default=1000, least=1, help="as --display_freq")
        may_change("--no_html", action="store_true", help="no page in checkpoints/NAME/web")
        may_change("--save_latest_freq", type=int, default=5000, least=1, help="images per save")
        may_change("--save_epoch_freq", type=int, default=5, least=1, help="epochs per checkpoint")
        may_change("--save_by_iter", action="store_true", help="keep each latest as iter_N too")
        may_change("--keep_last", type=int, least=1, help="how many epochs to keep; not given, all")
        # fmt: on
        for name, default in VISDOM.items():
            may_change(f"--{name}", type=type(default), default=default, help=argparse.SUPPRESS)

    def take_saved(self, opt: argparse.Namespace, argv: Sequence[str]) -> None:
        """Make the options of the run that is continued, if one is, the defaults."""
        tag = checkpoint.tag(opt) if opt.continue_train else None
        self.saved_run = restarts.open_saved_run(checkpoint.folder(opt), tag)
        if self.saved_run:
            options = self.saved_run.options
            kinds = [f"--{k}={options[k]}" for k in ("model", "dataset_mode") if k in options]
            parser = self.parser = self.build_parser([*kinds, *argv])  # with options of their own
            self.saved = {
                name: value
                for name, value in options.items()
                if parser.accepts(name, value) and parser.on_resume(name) != "not restored"
            }
            parser.set_defaults(**self.saved)

    def finish(self, opt: argparse.Namespace) -> None:
        """Settle norm and batch for this number of ranks, and where to continue."""
        super().finish(opt)
        opt.saved_run = self.saved_run
        with self.collecting():
            opt.norm = distributed.norm_for_job(opt.norm, given="norm" in self.given)
        self._settle_batch(opt)
        if opt.compile and "dist_timeout" not in self.given:  # compiling may take minutes more
            opt.dist_timeout = max(opt.dist_timeout, COMPILING)
        if self.saved_run:
            self._settle_resume(opt, self.saved_run)

    def _settle_batch(self, opt: argparse.Namespace) -> None:
        if {"batch_size", "global_batch_size"} <= self.given:
            self.problems.append("--batch_size and --global_batch_size: give one of them")
        before = self.saved_run.options if self.saved_run else {}
        opt.first_batch_size = before.get("first_batch_size", opt.batch_size)
        same = opt.batch_size == opt.first_batch_size  # the same command, on other ranks perhaps
        if "batch_size" in self.given and not (before and same):
            opt.global_batch_size = None
        if opt.global_batch_size is None:
            opt.global_batch_size = opt.batch_size * distributed.world_size()
        with self.collecting():
            opt.batch_size = distributed.split_batch(opt.global_batch_size)

    def _settle_resume(self, opt: argparse.Namespace, run: SavedRun) -> None:
        fixed = dict(self.saved)
        if run.restarted_by:
            opt.continue_train, opt.epoch, opt.load_iter = True, run.tag, 0
        else:
            fixed["epoch_count"] = run.epoch
        others = self.conflicts(opt, fixed)
        opt.epoch_count = run.epoch
        parts = self.saved.get("accumulate", 1)
        if opt.accumulate != parts and opt.norm in ("batch", "syncbatch"):
            self.problems.append(
                f"--accumulate {opt.accumulate}: the run has {parts}, and with --norm {opt.norm} "
                "each part of a batch has statistics of its own; leave the flag out"
            )
        if others:
            self.problems.append(
                "--continue_train keeps the options of the run, and these would make it another: "
                f"{others}; leave them out, or start a new run (--name)"
            )

    def mention(self, opt: argparse.Namespace) -> None:
        """Say which flags do nothing, who has restarted the job, and end if the run is over."""
        visdom, run = sorted(VISDOM.keys() & self.given), self.saved_run
        if visdom:
            distributed.print0(f"--{', --'.join(visdom)}: ignored, there is no visdom server")
        if run and run.restarted_by:
            distributed.print0(
                f"{run.restarted_by} has started this job again; it continues from {run.tag}"
            )
        if opt.epoch_count > opt.n_epochs + opt.n_epochs_decay:
            end = f"{opt.name} is trained to the end, epoch {opt.epoch_count - 1}"
            distributed.print0(f"{end}; for more epochs give a larger --n_epochs")
            raise SystemExit(0)
