"""Datasets: `--dataset_mode NAME` is the class <Name>Dataset in data/NAME_dataset.py.

Dropping a file in adds a dataset; there is no list to edit. data/template_dataset.py is an example.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from data import cache, kinds
from data.base_dataset import BaseDataset
from data.loader import Loader
from util import checkpoint
from util.registry import Registry

_registry = Registry(__name__, "dataset", BaseDataset, "--dataset_mode")

dataset_modes = _registry.names


def find_dataset_using_name(dataset_name: str) -> type[BaseDataset]:
    """The dataset class of a name; UserError if there is none."""
    return _registry.find(dataset_name)


def get_option_setter(dataset_name: str) -> Callable[[ArgumentParser, bool], ArgumentParser]:
    """The dataset's `modify_commandline_options`."""
    return find_dataset_using_name(dataset_name).modify_commandline_options


def create_dataset(opt: Namespace) -> Loader:
    """The dataset that the options name, in a loader; UserError if there is none, or no image."""
    dataset = find_dataset_using_name(opt.dataset_mode)(opt)
    trained = {} if opt.isTrain else kinds.saved_kinds(checkpoint.folder(opt))
    found = kinds.find_kinds(dataset, trained)
    if not opt.isTrain:
        kinds.mention_scaling(dataset)
    if getattr(opt, "cache", "none") == "ram":
        cache.fill(dataset)
    loader = Loader(dataset, opt)
    loader.kinds, loader.trained_kinds = found, trained
    return loader
