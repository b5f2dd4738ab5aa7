"""What cannot work together: all of it is found here, before anything is built."""

import argparse
import importlib
import math
from collections.abc import Iterator
from pathlib import Path

import data
import models
from data.base_dataset import BaseDataset
from models.networks import GENERATORS, size_problem
from util import distributed


def problems(opt: argparse.Namespace) -> Iterator[str]:
    """Every contradictory or impossible option of `opt`, one sentence each."""
    model = models.find_model_using_name(opt.model)
    dataset = data.find_dataset_using_name(opt.dataset_mode)
    yield from _experiment(opt)
    yield from _sizes(opt)
    yield from _ranges(opt)
    if not set(model.needs) <= set(dataset.provides):
        remedy = "choose another" if opt.isTrain else "choose another, or --model test"
        yield (
            f"--model {opt.model} needs images {' and '.join(model.needs)}, and --dataset_mode "
            f"{opt.dataset_mode} gives {' and '.join(dataset.provides)} only; {remedy}"
        )
    if opt.cache == "ram" and not opt.isTrain:
        yield "--cache ram: testing reads each image once; leave the flag out"
    elif opt.cache == "ram" and dataset.to_cache is BaseDataset.to_cache:
        yield (
            f"--cache ram: --dataset_mode {opt.dataset_mode} has no to_cache(); leave the flag "
            "out, or write one as in data/template_dataset.py"
        )
    yield from model.check_options(opt)
    yield from dataset.check_options(opt)
    if opt.isTrain:
        yield from _training(opt)
    elif opt.tile and opt.compile:
        yield f"--tile {opt.tile}: compiled networks take whole images; leave one of the two out"


def _experiment(opt: argparse.Namespace) -> Iterator[str]:
    path = Path(opt.name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        yield (
            f"--name {opt.name} is no folder in --checkpoints_dir {opt.checkpoints_dir}; "
            "give the experiment a plain name"
        )
    try:
        if opt.use_wandb and distributed.is_main():
            importlib.import_module("wandb")
    except ImportError:
        yield "--use_wandb needs wandb, which is not here: pip install wandb"


def _ranges(opt: argparse.Namespace) -> Iterator[str]:
    for name in ("value_range", "value_range_A", "value_range_B"):
        values = vars(opt)[name]
        if values and not values[0] < values[1] < math.inf:
            yield f"--{name} {values[0]:g} {values[1]:g}: the first must be smaller than the second"


def _sizes(opt: argparse.Namespace) -> Iterator[str]:
    scaled = "resize" in opt.preprocess or "scale" in opt.preprocess
    if scaled and "crop" in opt.preprocess and opt.crop_size > opt.load_size:
        yield f"--crop_size {opt.crop_size} is larger than --load_size {opt.load_size}; change one"
    flag = "load_size" if opt.preprocess == "scale_width" else "crop_size"
    generator, size = GENERATORS.get(opt.netG), getattr(opt, flag)
    # not a plug-in's own generator; and testing takes any size
    if generator and opt.preprocess != "none" and opt.isTrain:
        problem = size_problem(size, size, generator.multiple, generator.minimum)
        if problem:
            yield f"--{flag} {size}: --netG {opt.netG} {problem}; give another size, or --netG"


def _training(opt: argparse.Namespace) -> Iterator[str]:
    last = opt.n_epochs + opt.n_epochs_decay
    if opt.epoch_count > last and not opt.saved_run:
        yield f"--epoch_count {opt.epoch_count} is after the last epoch, {last}; raise --n_epochs"
    if opt.lr_policy == "cosine" and opt.n_epochs == 0:
        yield "--lr_policy cosine needs --n_epochs 1 or more, its half period"
    parts, images = opt.accumulate, opt.batch_size
    if images % parts:
        yield f"--accumulate {parts} does not divide the batch of {images} per rank; use a divisor"
    if opt.compile and opt.checkpoint_activations:
        yield "--compile chooses by itself what to recompute; leave out --checkpoint_activations"
