"""What cannot work together: all of it is found here, before anything is built."""

import argparse
from collections.abc import Iterator

from models.networks import GENERATORS

# option: the least value that makes sense
AT_LEAST = {
    "input_nc": 1, "output_nc": 1, "ngf": 1, "ndf": 1, "n_layers_D": 1, "init_gain": 0,
    "batch_size": 1, "num_threads": 0, "load_size": 1, "crop_size": 1, "max_dataset_size": 1,
    "load_iter": 0, "seed": 0, "display_winsize": 1, "num_test": 1,
    "n_epochs": 0, "n_epochs_decay": 0, "epoch_count": 1, "lr": 0, "lr_decay_iters": 1,
    "lambda_gp": 0, "pool_size": 0, "print_freq": 1, "display_freq": 1, "update_html_freq": 1,
    "save_latest_freq": 1, "save_epoch_freq": 1,
}  # fmt: skip


def problems(opt: argparse.Namespace, model: type) -> list[str]:
    """Every contradictory or impossible option of `opt`, one sentence each."""
    found = [*_ranges(opt), *_sizes(opt), *model.check_options(opt)]
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


def _sizes(opt: argparse.Namespace) -> Iterator[str]:
    scaled = "resize" in opt.preprocess or "scale" in opt.preprocess
    if scaled and "crop" in opt.preprocess and opt.crop_size > opt.load_size:
        yield (
            f"--crop_size {opt.crop_size} is larger than --load_size {opt.load_size}; "
            "lower one or raise the other"
        )
    multiple = GENERATORS[opt.netG].multiple if opt.netG in GENERATORS else 1
    flag = {"scale_width": "load_size", "none": None}.get(opt.preprocess, "crop_size")
    size = getattr(opt, flag) if flag else 0
    if size > 0 and size % multiple:
        fitting = max(multiple, round(size / multiple) * multiple)
        yield (
            f"--{flag} {size} does not fit --netG {opt.netG}, which halves the image until one "
            f"pixel is left and needs a multiple of {multiple}; use {fitting}, or another --netG"
        )


def _schedule(opt: argparse.Namespace) -> Iterator[str]:
    last = opt.n_epochs + opt.n_epochs_decay
    if opt.epoch_count > last:
        yield (
            f"there is nothing to train: the first epoch is {opt.epoch_count} (--epoch_count, or "
            f"where --continue_train goes on) and the last is {last} (--n_epochs "
            f"{opt.n_epochs} + --n_epochs_decay {opt.n_epochs_decay}); raise one of these two"
        )
    if not 0 <= opt.beta1 < 1:
        yield f"--beta1 {opt.beta1} must be at least 0 and below 1"
