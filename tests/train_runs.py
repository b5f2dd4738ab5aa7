"""Runs of train.py, one after the other, each argument a command line. Run by python or torchrun.

They compute in float64: rounding then hides nothing. A command line may have options of this file:

    --first_gradients FILE  save the gradients of the first step, in float32, and train no further
    --stop_after N          SIGTERM comes in the N-th step
    --bypass_wrapper        what the wrapper is for: plain batch norm under DDP
"""

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from functools import partial
from unittest import mock

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import train  # noqa: E402
from data import create_dataset  # noqa: E402
from models import create_model  # noqa: E402
from options.train_options import TrainOptions  # noqa: E402
from util import checkpoint, distributed, rng  # noqa: E402
from util.training.interrupts import StepMonitor  # noqa: E402


def run(line):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--first_gradients")
    parser.add_argument("--stop_after", type=int)
    parser.add_argument("--bypass_wrapper", action="store_true")
    args, argv = parser.parse_known_args(line.split())
    main = partial(train.main, argv)
    torch.set_default_dtype(torch.float32 if args.first_gradients else torch.float64)
    with ExitStack() as patches:
        patch = lambda *what: patches.enter_context(mock.patch.object(*what))  # noqa: E731
        if args.first_gradients:
            main = partial(save_first_gradients, argv, args.first_gradients)
        if args.bypass_wrapper:
            patch(distributed.sync_batch_norm, "convert", lambda net: net)
        if args.stop_after:
            patch(StepMonitor, "after_step", stopping_after(args.stop_after))
        try:
            distributed.run(main)
        except SystemExit as exit:
            if not args.stop_after or exit.code != 128 + signal.SIGTERM:
                raise
        else:
            assert not args.stop_after, "the run was over before it was stopped"


def stopping_after(last, after_step=StepMonitor.after_step):
    steps = []

    def count_and_stop(self, *step):
        steps.append(step)
        if len(steps) == last:
            self._on_signal(signal.SIGTERM, None)
        after_step(self, *step)

    return count_and_stop


def save_first_gradients(argv, file):
    opt = TrainOptions().parse(argv)
    with distributed.job(opt.device, opt.dist_timeout):
        rng.seed_everything(opt.seed)
        loader = create_dataset(opt)
        model = create_model(opt)
        model.setup(opt)
        loader.set_epoch(1)
        model.set_input(next(iter(loader)))
        model.optimize_parameters()
        gradients = {
            f"{name} {key}": parameter.grad
            for name, net in model.named_networks().items()
            for key, parameter in distributed.unwrap(net).named_parameters()
        }
        checkpoint.save(gradients, file)


if __name__ == "__main__":
    for line in sys.argv[1:]:
        run(line)
