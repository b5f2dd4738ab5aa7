"""What cannot work together: all of it is found here, before anything is built."""

import argparse
from collections.abc import Iterator

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
    "keep_last": 1,
}  # fmt: skip
AT_MOST = {"seed": 2**63 - 1}


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
        found += _schedule(opt)
    elif opt.aspect_ratio <= 0:
        found.append(f"--aspect_ratio {opt.aspect_ratio} must be over 0")
    if not opt.name.strip():
        found.append("--name is empty; give the experiment a name")
    return found


def _ranges(opt: argparse.Namespace) -> Iterator[str]:
    for name, least in AT_LEAST.items():
        value = getattr(opt, name, None)
        if value is not None and not value >= least:
            yield f"--{name} {value} is too small; it must be at least {least}"
    for name, most in AT_MOST.items():
        if getattr(opt, name) > most:
            yield f"--{name} {getattr(opt, name)} is too large; it must be at most {most}"


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
