"""The base class of all datasets."""

from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from torch.utils.data import Dataset

from data.image_reader import ImageReader
from data.transforms import get_params, get_transform

__all__ = ["BaseDataset", "channels", "get_params", "get_transform", "input_side"]

Files = Sequence[tuple[ImageReader, Sequence[str]]]  # each reader, and the paths that it reads


class BaseDataset(Dataset[Any], ABC):
    """Subclass this in data/NAME_dataset.py as <Name>Dataset; `--dataset_mode NAME` then finds it.

    Use `random`, `numpy.random` or torch's random numbers as you like: the loader seeds them for
    each sample, so that a run repeats whatever the number of workers or ranks. (A generator of
    your own, as from `numpy.random.default_rng()`, it cannot seed.) `__init__` calls this one and
    then lists the files. data/template_dataset.py is a worked example.
    """

    provides: tuple[str, ...] = ("A", "B")  # the images in a sample, for models to compare with
    quick_from_cache = True  # with --cache ram a sample takes a millisecond: no need of workers

    def __init__(self, opt: Namespace) -> None:
        self.opt = opt
        self.root = opt.dataroot

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """Add options of this dataset, or change defaults; returns the parser."""
        return parser

    @classmethod
    def check_options(cls, opt: Namespace) -> Iterable[str]:
        """Sentences about options that cannot work with this dataset; none if all is well."""
        return ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: images as (C, H, W) float tensors in [-1, 1], and the paths they are from.

        The models here read "A", "B" (images), "A_paths" and "B_paths" (str).
        """

    def to_cache(self) -> Files:
        """The files, and who reads them: for `--cache ram`, and to see what kind of images it has.

        A dataset that does not override this is refused with --cache ram, and taken for 8-bit.
        """
        return ()


def channels(opt: Namespace) -> tuple[int, int]:
    """(channels of A, channels of B): the networks read A and write B, or the other way round."""
    pair = opt.input_nc, opt.output_nc
    return pair[::-1] if opt.direction == "BtoA" else pair


def input_side(opt: Namespace) -> str:
    """Which side of the training the generator of `--model test` reads: "A" or "B"."""
    backwards = (opt.direction == "BtoA") != (getattr(opt, "model_suffix", "") == "_B")
    return "B" if backwards else "A"
