"""Random numbers of a sample follow from (seed, epoch, index) alone, whoever loads it."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from util.errors import UserError


@dataclass(frozen=True)
class Failure:
    """A UserError on its way out of a worker: torch would wrap the exception in a traceback."""

    message: str


class SeededDataset(Dataset[Any]):
    """A dataset whose keys are (epoch, index), so that workers that live on know the epoch."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        """The samples of a batch, in one call from torch's loader."""
        with preserve_rng_state():
            return [self.sample(epoch, index) for epoch, index in keys]

    def sample(self, epoch: int, index: int) -> Any:
        """A sample, with random numbers of its own; or a Failure."""
        seed_all(self.seed, epoch, index)
        try:
            return self.dataset[index]
        except UserError as error:
            return Failure(str(error))


def seed_of(*key: int) -> int:
    """A 64-bit seed for a key of numbers: the same on every machine, unrelated for close keys."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def seed_all(*key: int) -> None:
    """Seed Python's, numpy's and torch's (CPU) random numbers from `key`."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed([seed % 2**32, seed >> 32])
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs as well


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """After this block the random numbers continue as if it had not been.

    In it, one thread only, as in a worker: how torch splits the work can change the last bit.
    """
    before, numpy_before = random.getstate(), np.random.get_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)
        torch.set_num_threads(threads)
