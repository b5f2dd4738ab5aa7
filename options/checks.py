"""What cannot work together: all of it is found here, before anything is built."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import data
import models
from data.base_dataset import BaseDataset
from models.networks import GENERATORS

# option: the least value that makes sense
AT_LEAST = {
    "input_nc": 1, "output_nc": 1, "ngf": 1, "ndf": 1, "n_layers_D": 1, "init_gain": 0,
    "batch_size": 1, "num_threads": 0, "load_size": 1, "crop_size": 1, "max_dataset_size": 1,
    "load_iter": 0, "seed": 0, "display_winsize": 1, "num_test": 1,
    "n_epochs": 0, "n_epochs_decay": 0, "epoch_count": 1, "lr": 0, "lr_decay_iters": 1,
    "lambda_gp": 0, "pool_size": 0, "print_freq": 1, "display_freq": 1, "update_html_freq": 1,
    "save_latest_freq": 1, "save_epoch_freq": 1, "global_batch_size": 1, "dist_timeout": 0.1,
    "keep_last": 1, "accumulate": 1, "aspect_ratio": 0.01,
    "lambda_L1": 0, "lambda_A": 0, "lambda_B": 0, "lambda_identity": 0, "lambda_regression": 0,
}  # fmt: skip
AT_MOST = {  # beyond these, sums of time or of pixels overflow
    "seed": 2**63 - 1, "n_epochs": 10**7, "n_epochs_decay": 10**7, "dist_timeout": 10**6,
    "aspect_ratio": 100,
}  # fmt: skip
MAY_BE_INFINITE = ("max_dataset_size", "num_test")


def problems(opt: argparse.Namespace) -> list[str]:
    """Every contradictory or impossible option of `opt`, one sentence each."""
    model = models.find_model_using_name(opt.model)
    dataset = data.find_dataset_using_name(opt.dataset_mode)
    found = [*_ranges(opt), *_sizes(opt)]
    missing = [side for side in model.needs if side not in dataset.provides]
    if missing:
        found.append(
            f"--model {opt.model} needs images {' and '.join(model.needs)}, and --dataset_mode "
            f"{opt.dataset_mode} gives {' and '.join(dataset.provides)} only; choose another"
        )
    found += [*_cache(opt, dataset), *model.check_options(opt), *dataset.check_options(opt)]
    if opt.isTrain:
        found += [*_schedule(opt), *_memory(opt)]
    return [*found, *_name(opt)]


def _name(opt: argparse.Namespace) -> Iterator[str]:
    path = Path(opt.name)
    if not opt.name.strip():
        yield "--name is empty; give the experiment a name"
    elif path.is_absolute() or ".." in path.parts or not path.parts:
        yield (
            f"--name {opt.name} leads out of --checkpoints_dir {opt.checkpoints_dir}; give the "
            "experiment a name, and choose the place of all with --checkpoints_dir"
        )


def _ranges(opt: argparse.Namespace) -> Iterator[str]:
    for name, value in vars(opt).items():
        number = isinstance(value, (int, float))
        if isinstance(value, float) and not math.isfinite(value) and name not in MAY_BE_INFINITE:
            if math.isnan(value) or name in AT_LEAST:  # a plug-in may take infinity for no limit
                yield f"--{name} {value} is no number to compute with; type a finite one"
        elif number and name in AT_LEAST and not value >= AT_LEAST[name]:
            yield f"--{name} {value} is too small; it must be at least {AT_LEAST[name]}"
        elif number and name in AT_MOST and value > AT_MOST[name]:
            yield f"--{name} {value} is too large; it must be at most {AT_MOST[name]}"


def _cache(opt: argparse.Namespace, dataset: type[BaseDataset]) -> Iterator[str]:
    if opt.cache == "ram" and not opt.isTrain:
        yield "--cache ram: testing reads each image once; leave the flag out"
    elif opt.cache == "ram" and dataset.to_cache is BaseDataset.to_cache:
        yield (
            f"--cache ram: --dataset_mode {opt.dataset_mode} reads its files by itself; leave the "
            "flag out, or read them as data/template_dataset.py does and say so in to_cache()"
        )


def _sizes(opt: argparse.Namespace) -> Iterator[str]:
    scaled = "resize" in opt.preprocess or "scale" in opt.preprocess
    if scaled and "crop" in opt.preprocess and opt.crop_size > opt.load_size:
        yield (
            f"--crop_size {opt.crop_size} is larger than --load_size {opt.load_size}; "
            "lower one or raise the other"
        )
    flag = {"scale_width": "load_size", "none": None}.get(opt.preprocess, "crop_size")
    if flag and opt.netG in GENERATORS and getattr(opt, flag) > 0:  # no plug-in's own generator
        yield from _fits_generator(opt, flag, getattr(opt, flag))


def _fits_generator(opt: argparse.Namespace, flag: str, size: int) -> Iterator[str]:
    multiple = GENERATORS[opt.netG].multiple
    if size % multiple:
        fitting = max(multiple, round(size / multiple) * multiple)
        yield (
            f"--{flag} {size} does not fit --netG {opt.netG}, which halves the image until one "
            f"pixel is left and needs a multiple of {multiple}; use {fitting}, or another --netG"
        )
    least = GENERATORS[opt.netG].minimum
    if size < least and not size % multiple:
        yield f"--{flag} {size} is too small for --netG {opt.netG}; use {least} or more"


def _memory(opt: argparse.Namespace) -> Iterator[str]:
    if opt.accumulate > 1 and opt.batch_size % opt.accumulate:
        yield (
            f"--accumulate {opt.accumulate} does not divide the batch of {opt.batch_size} images "
            "(per process); use a divisor of it, or a multiple as --batch_size"
        )
    if opt.compile and opt.checkpoint_activations:
        yield (
            "--compile with --checkpoint_activations: a compiled network plans by itself what it "
            "keeps and what it computes again; leave one of them out"
        )


def _schedule(opt: argparse.Namespace) -> Iterator[str]:
    last = opt.n_epochs + opt.n_epochs_decay
    if opt.epoch_count > last:
        yield (
            f"there is nothing to train: the first epoch is {opt.epoch_count} (--epoch_count, or "
            f"where --continue_train goes on) and the last is {last} (--n_epochs "
            f"{opt.n_epochs} + --n_epochs_decay {opt.n_epochs_decay}); raise one of these two"
        )
    if opt.lr_policy == "cosine" and opt.n_epochs == 0:
        yield "--lr_policy cosine needs --n_epochs 1 or more, its half period"
    if not 0 <= opt.beta1 < 1:
        yield f"--beta1 {opt.beta1} must be at least 0 and below 1"
