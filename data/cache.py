"""`--cache ram`: the pictures of a dataset, decoded and resized once, in memory that is shared.

Pixels are those of the files, bit for bit: what is kept is the 8-bit picture before anything random
is done to it. The ranks of a machine and their workers see one copy, which the ranks fill together
before training starts.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from data.base_dataset import BaseDataset
from data.image_io import Pictures
from data.loader import share_of_cores
from data.memory import SharedBlock, available_memory, size_text
from util import distributed
from util.errors import UserError

HEADROOM = 0.9  # of the memory that is there; the rest is for training
T = TypeVar("T")
R = TypeVar("R")


class Store:
    """8-bit pictures of many sizes in one SharedBlock, found by their numbers."""

    def __init__(self, shapes: Sequence[tuple[int, int, int]]) -> None:
        """Reserve memory for pictures of these shapes (C, H, W)."""
        self.channels = np.array([shape[0] for shape in shapes], np.int8)
        ends = np.cumsum([c * h * w for c, h, w in shapes], dtype=np.int64)
        self.start = np.concatenate(([0], ends)) + index_size(len(shapes))
        self.block = SharedBlock(int(self.start[-1]))
        self._look()

    def _look(self) -> None:
        count = len(self.channels)
        self.index = np.frombuffer(self.block.bytes, np.int32, 2 * count).reshape(count, 2)
        self.values = torch.frombuffer(self.block.bytes, dtype=torch.uint8)

    def __getstate__(self) -> dict:
        """For a worker: the block, and not the views of it."""
        return {name: vars(self)[name] for name in ("channels", "start", "block")}

    def __setstate__(self, state: dict) -> None:
        """The same store, in the worker."""
        vars(self).update(state)
        self._look()

    def put(self, number: int, picture: torch.Tensor) -> None:
        """Keep a picture (C, H, W), if it is not larger than was said."""
        channels, height, width = picture.shape
        if picture.numel() <= self.start[number + 1] - self.start[number]:
            self._view(number, height, width).copy_(picture)
            self.index[number] = height, width  # last: now it is there

    def get(self, first: int, count: int) -> tuple[torch.Tensor, ...] | None:
        """Pictures number `first` and following, (C, H, W) uint8; None if they are not there."""
        sizes = self.index[first : first + count].tolist()
        if not all(map(all, sizes)):
            return None
        return tuple(self._view(first + i, *size) for i, size in enumerate(sizes))

    def _view(self, number: int, height: int, width: int) -> torch.Tensor:
        shape = int(self.channels[number]), height, width
        start = int(self.start[number])
        return self.values[start : start + shape[0] * height * width].view(shape)


def index_size(count: int) -> int:
    """Bytes in front of the pictures: height and width of each, 0 until it is there."""
    return count * 2 * np.dtype(np.int32).itemsize


class File(NamedTuple):
    """A file to be kept, and what reads it."""

    pictures: Pictures
    path: str


def fill(dataset: Dataset) -> None:
    """Read the pictures of a dataset into memory, from which it then takes them.

    All ranks call it, with the same dataset.

    Raises:
        UserError: they do not fit, or one cannot be read.
    """
    files, shapes = plan(dataset)
    check_size(len(files), needed(shapes))
    store = Store(list(itertools.chain.from_iterable(shapes)))
    first = list(itertools.accumulate(map(len, shapes), initial=0))
    numbered = list(zip(files, first, strict=False))
    ranks, rank = distributed.local_world_size(), distributed.local_rank()
    read(store, numbered[rank::ranks])
    distributed.mean({"read": 1.0})  # waits for all ranks
    read(store, [(file, n) for file, n in numbered if not store.index[n].any()])
    for file, number in numbered:
        file.pictures.places[file.path] = number
        file.pictures.store = store


def is_filled(dataset: Dataset) -> bool:
    """Whether the dataset takes its pictures from memory."""
    return any(pictures.store is not None for pictures, _ in readers(dataset))


def size_if_it_fits(dataset: Dataset) -> int | None:
    """Bytes that a cache of the dataset would take; None if it cannot be or does not fit."""
    size = size_of_cache(dataset)
    return size if 0 < size <= HEADROOM * available_memory() else None


@lru_cache(maxsize=1)  # asked for again and again, of one dataset; it may read many headers
def size_of_cache(dataset: Dataset) -> int:
    """Bytes for the pictures of a dataset; 0 if it does not say which they are."""
    return needed(plan(dataset)[1])


def plan(dataset: Dataset) -> tuple[list[File], list[list[tuple[int, int, int]]]]:
    """The files that a dataset reads, and the shapes of the pictures that each will give."""
    files = [File(*each) for each in dict.fromkeys(pairs(dataset))]
    return files, list(in_threads(lambda file: file.pictures.shapes(file.path), files))


def pairs(dataset: Dataset) -> Iterator[tuple[Pictures, str]]:
    """Every (reader, path) of a dataset."""
    for pictures, paths in readers(dataset):
        yield from ((pictures, path) for path in paths)


def readers(dataset: Dataset) -> Sequence[tuple[Pictures, Sequence[str]]]:
    """What reads the files of a dataset, and their paths; none if it does not say."""
    return dataset.to_cache() if isinstance(dataset, BaseDataset) else ()


def needed(shapes: Sequence[Sequence[tuple[int, int, int]]]) -> int:
    """Bytes of memory for pictures of these shapes."""
    flat = list(itertools.chain.from_iterable(shapes))
    return index_size(len(flat)) + sum(c * h * w for c, h, w in flat)


def check_size(count: int, size: int) -> None:
    """Say how much memory the cache takes; UserError if that is too much."""
    free = available_memory()
    if size > HEADROOM * free:
        raise UserError(
            f"--cache ram: {count} pictures take {size_text(size)} of memory and "
            f"{size_text(free)} are free here, of which training needs some; leave the flag out, "
            "or keep less (--max_dataset_size, --load_size). In a container, memory that several "
            "ranks share is limited by /dev/shm too (docker run --shm-size)"
        )
    distributed.print0(
        f"--cache ram: {count} pictures take {size_text(size)} of memory ({size_text(free)} free)"
    )


def read(store: Store, files: Sequence[tuple[File, int]]) -> None:
    """Put the pictures of some files into the store, with a bar that shows how far it is."""

    def keep(numbered: tuple[File, int]) -> None:
        file, number = numbered
        for i, picture in enumerate(file.pictures.prepared(file.path)):
            store.put(number + i, picture)

    hidden = not (files and distributed.is_main() and sys.stderr.isatty())
    with tqdm(total=len(files), desc="reading", unit="picture", disable=hidden) as bar:
        for _ in in_threads(keep, files):
            bar.update()


def in_threads(function: Callable[[T], R], values: Sequence[T], portion: int = 16) -> Iterator[R]:
    """Yield function(value) in order, computed by as many threads as this rank has cores.

    PIL decodes and resizes outside of Python's lock.
    """
    portions = [values[i : i + portion] for i in range(0, len(values), portion)]
    with ThreadPoolExecutor(share_of_cores()) as executor:
        for results in executor.map(lambda part: [function(value) for value in part], portions):
            yield from results
