"""What cannot work together: all of it is found here, before anything is built."""

import argparse
import importlib
from collections.abc import Iterator
from pathlib import Path

import data
import models
from data.base_dataset import BaseDataset
from models.networks import GENERATORS
from util import distributed


def problems(opt: argparse.Namespace) -> list[str]:
    """Every contradictory or impossible option of `opt`, one sentence each."""
    model = models.find_model_using_name(opt.model)
    dataset = data.find_dataset_using_name(opt.dataset_mode)
    found = [*_name(opt), *_sizes(opt), *_tracker(opt)]
    missing = [side for side in model.needs if side not in dataset.provides]
    if missing:
        found.append(
            f"--model {opt.model} needs images {' and '.join(model.needs)}, and --dataset_mode "
            f"{opt.dataset_mode} gives {' and '.join(dataset.provides)} only; choose another"
        )
    found += [*_cache(opt, dataset), *model.check_options(opt), *dataset.check_options(opt)]
    if opt.isTrain:
        found += [*_schedule(opt), *_memory(opt)]
    return found


def _name(opt: argparse.Namespace) -> Iterator[str]:
    path = Path(opt.name)
    if not opt.name.strip():
        yield "--name is empty; give the experiment a name"
    elif path.is_absolute() or ".." in path.parts or not path.parts:
        yield (
            f"--name {opt.name} leads out of --checkpoints_dir {opt.checkpoints_dir}; give the "
            "experiment a name, and choose the place of all with --checkpoints_dir"
        )


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
    if flag is None or opt.netG not in GENERATORS:  # a plug-in's own generator
        return
    size, row = getattr(opt, flag), GENERATORS[opt.netG]
    if size % row.multiple:
        fitting = max(row.multiple, round(size / row.multiple) * row.multiple)
        yield (
            f"--{flag} {size} does not fit --netG {opt.netG}, which halves the image until one "
            f"pixel is left and needs a multiple of {row.multiple}; use {fitting}, or another "
            "--netG"
        )
    elif size < row.minimum:
        yield f"--{flag} {size} is too small for --netG {opt.netG}; use {row.minimum} or more"


def _tracker(opt: argparse.Namespace) -> Iterator[str]:
    try:
        if opt.use_wandb and distributed.is_main():
            importlib.import_module("wandb")
    except ImportError:
        yield "--use_wandb needs wandb, which is not here: pip install wandb"


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
    if opt.epoch_count > last and opt.saved_run is None:
        yield (
            f"there is nothing to train: the first epoch is {opt.epoch_count} (--epoch_count) and "
            f"the last is {last} (--n_epochs {opt.n_epochs} + --n_epochs_decay "
            f"{opt.n_epochs_decay}); raise one of these two"
        )
    if opt.lr_policy == "cosine" and opt.n_epochs == 0:
        yield "--lr_policy cosine needs --n_epochs 1 or more, its half period"
