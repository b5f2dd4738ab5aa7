"""Train pix2pix or CycleGAN.

    python train.py --dataroot ./datasets/demo --name demo --model pix2pix --direction BtoA

`python train.py --model NAME --help` lists the options. The weights, the log of the losses and a
page with curves and images go to checkpoints/NAME.
"""
# ruff: noqa: E402

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for a Ctrl-C during the imports

import argparse
from collections.abc import Sequence
from functools import partial

from data import create_dataset
from data.loader import Loader
from models import create_model
from models.base_model import BaseModel
from options.train_options import TrainOptions
from util import checkpoint, distributed, precision, rng
from util.run_record import shared_options
from util.training.progress import Progress


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says; `argv` None takes the program's own arguments."""
    opt = TrainOptions().parse(argv)
    precision.configure(opt.device, opt.precision, fixed_shapes="crop" in opt.preprocess)
    with distributed.job(opt.device, opt.dist_timeout):
        train(opt)


def train(opt: argparse.Namespace) -> None:
    """Train as the options say, on this rank."""
    distributed.check_same("options", partial(shared_options, opt))
    rng.seed_everything(opt.seed)
    loader = create_dataset(opt)
    distributed.check_same("data", loader.listing)
    model = create_model(opt)
    with checkpoint.locked_folder(
        checkpoint.folder(opt), "choose another --name or --checkpoints_dir"
    ):
        run(opt, loader, model)


def run(opt: argparse.Namespace, loader: Loader, model: BaseModel) -> None:
    """Train a model on a dataset, from where the options say to their last epoch."""
    model.setup(opt)
    rng.seed_rank(opt.seed)
    distributed.print0(
        f"training {opt.model} on {distributed.summary(opt.device, opt.batch_size)}, "
        f"{len(loader)} images, epochs {opt.epoch_count} to {opt.n_epochs + opt.n_epochs_decay}, "
        f"seed {opt.seed}"
    )
    with Progress(opt, model, loader) as progress:
        for epoch in progress.epochs():
            for batch in progress.batches(epoch):
                model.train_on(batch)
                progress.advance()
            model.update_learning_rate()
            progress.end_epoch()
    distributed.print0(f"trained; the weights are in {checkpoint.folder(opt)}")


if __name__ == "__main__":
    distributed.run(main)
