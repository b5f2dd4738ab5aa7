"""From a dataset to batches: what each step sees depends on the seed and the epoch, nothing else.

Neither the number of workers nor how they are started, nor the number of ranks at one global
batch size, nor where a run was resumed changes a sample or its place in the epoch.
"""

import hashlib
import os
import random
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from data.worker_signals import end_workers_at_exit, leave_signals_to_training
from util import distributed
from util.errors import UserError


class Loader:
    """Iterating yields the collated batches of this rank, for the epoch of `set_epoch`."""

    def __init__(self, dataset: Dataset, opt: Namespace, start_method: str | None = None) -> None:
        """Prepare the workers; they start with the first iteration and stay for all epochs.

        All ranks of a machine together have no more workers than it has processor cores; how many
        there are does not change what is loaded.

        Args:
            dataset: map-style, with `__len__` and `__getitem__`.
            opt: reads batch_size (of one rank), num_threads, serial_batches, max_dataset_size,
                seed and device.
            start_method: "fork", "spawn" or "forkserver"; None is Python's choice here.

        Raises:
            UserError: the dataset is empty.
        """
        if not len(dataset):
            raise UserError(f"--dataset_mode {opt.dataset_mode} has no images in {opt.dataroot}")
        self.dataset = dataset
        self.num_threads = min(opt.num_threads, share_of_cores())
        self.sampler = EpochSampler(
            len(dataset),
            opt.batch_size,
            seed=opt.seed,
            shuffle=not opt.serial_batches,
            limit=opt.max_dataset_size,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )
        self.batches = DataLoader(
            SeededDataset(dataset, opt.seed),
            batch_sampler=self.sampler,
            num_workers=self.num_threads,
            persistent_workers=self.num_threads > 0,
            multiprocessing_context=start_method if self.num_threads > 0 else None,
            pin_memory=opt.device.type == "cuda",
            collate_fn=collate,
            worker_init_fn=leave_signals_to_training,
            generator=torch.Generator(),  # or each epoch would draw from the training's generator
        )
        end_workers_at_exit(self.batches)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch of the next iteration.

        Args:
            epoch: any number; together with the seed it decides order, crops and flips.
            start: leave out the first `start` images of the epoch, counted over all ranks: those
                that a resumed run has seen.
        """
        self.sampler.epoch, self.sampler.start = epoch, start

    def __len__(self) -> int:
        """The number of images in an epoch, over all ranks, as in the original."""
        return self.sampler.images

    @property
    def steps(self) -> int:
        """The number of batches that the next iteration yields."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """Yield batches.

        Raises:
            UserError: an image cannot be read, the sizes in a batch differ, a worker was killed.
        """
        with worker_trouble_explained(self.num_threads):
            batches = iter(self.batches)
        while True:
            with worker_trouble_explained(self.num_threads):
                batch = next(batches, None)
            if batch is None:
                self.set_epoch(self.sampler.epoch + 1)  # for loops that do not say which
                return
            if isinstance(batch, Failure):
                raise UserError(batch.message)
            yield batch

    def waiting_advice(self, share: float) -> str | None:
        """What to print after an epoch in which training waited for this part of the time."""
        from data.waiting import waiting_remedy

        return waiting_remedy(share, self)


def available_cores() -> int:
    """The processor cores that this process may use, 1 or more."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_of_cores() -> int:
    """The cores for this rank, where the ranks of its machine divide them; 1 or more."""
    return max(1, available_cores() // distributed.local_world_size())


def default_num_threads(from_memory: bool, most: int = 8) -> int:
    """How many workers load if nobody says: what is in memory comes fastest without any."""
    return 0 if from_memory else min(most, share_of_cores())


class EpochSampler:
    """Deal one permutation of the images to the ranks, as lists of (epoch, index).

    Step k takes the k-th group of batch_size * world_size images, and rank r the r-th part of it.
    If the last group does not divide by the number of ranks, images from the beginning of the
    epoch fill it up, so that all ranks do the same number of steps.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        limit: float = float("inf"),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Keep the numbers: `size` images, of which an epoch takes `limit`."""
        self.size, self.batch_size, self.seed, self.shuffle = size, batch_size, seed, shuffle
        self.images = int(min(size, limit))
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0

    def __len__(self) -> int:
        """The number of steps from `start` to the end of the epoch."""
        left = max(0, self.images - self.start)
        return -(-left // (self.batch_size * self.world_size))

    def order(self) -> list[int]:
        """The images of the whole epoch, over all ranks."""
        if not self.shuffle:
            return list(range(self.images))
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        return torch.randperm(self.size, generator=generator).tolist()[: self.images]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield, for each step, this rank's (epoch, index) pairs."""
        return deal(
            self.order(), self.epoch, self.start, self.batch_size, self.rank, self.world_size
        )


def deal(
    order: list[int], epoch: int, start: int, batch_size: int, rank: int, world_size: int
) -> Iterator[list[tuple[int, int]]]:
    """The groups of EpochSampler; epoch and start are those at the time of the call."""
    step = batch_size * world_size
    for first in range(start, len(order), step):
        group = order[first : first + step]
        group += [order[i % len(order)] for i in range(-len(group) % world_size)]
        share = len(group) // world_size
        yield [(epoch, index) for index in group[rank * share : (rank + 1) * share]]


@dataclass(frozen=True)
class Failure:
    """A UserError on its way out of a worker: torch would wrap the exception in a traceback."""

    message: str


class SeededDataset(Dataset):
    """A dataset whose keys are (epoch, index), so that workers that live on know the epoch."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        """Wrap `dataset`."""
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """The sample, the same for the same seed, epoch and index; or a Failure."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        """The samples of a batch; torch's loader asks for all of them at once."""
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


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's (CPU) random numbers from `key`; put them back after."""
    with preserve_rng_state():
        seed_all(*key)
        yield


def seed_all(*key: int) -> None:
    """Seed Python's, numpy's and torch's (CPU) random numbers from `key`."""
    seed = seed_of(*key)
    random.seed(seed)
    np.random.seed([seed % 2**32, seed >> 32])
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs as well


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """After this block the random numbers go on as if it had not been.

    In it, one thread only, as in a worker: how torch splits the work can change the last bit.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        torch.set_num_threads(threads)


def collate(samples: list[Any]) -> Any:
    """Stack samples to a batch; a Failure among them, or sizes that differ, is a Failure."""
    for sample in samples:
        if isinstance(sample, Failure):
            return sample
    message = unequal_sizes(samples)
    return Failure(message) if message else default_collate(samples)


def unequal_sizes(samples: list[Any], most: int = 4) -> str | None:
    """Say which images of a batch differ in size, if any do."""
    for key in samples[0] if isinstance(samples[0], dict) else ():
        images = [(sample[key], sample.get(f"{key}_paths", "an image")) for sample in samples]
        if not all(isinstance(image, torch.Tensor) and image.dim() == 3 for image, _ in images):
            continue
        sizes = [f"{path} is {image.shape[2]}x{image.shape[1]}" for image, path in images]
        if len({image.shape[1:] for image, _ in images}) > 1:
            return (
                f"the images of a batch differ in size after preprocessing: "
                f"{', '.join(sizes[:most])}{', …' if len(sizes) > most else ''}; "
                "use --preprocess resize_and_crop, or --batch_size 1"
            )
    return None


@contextmanager
def worker_trouble_explained(num_threads: int) -> Iterator[None]:
    """Turn the many ways in which torch reports a killed worker into a UserError."""
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        from_the_dataset = not num_threads or str(error).startswith("Caught ")
        if from_the_dataset:
            raise
        raise UserError(
            f"loading images in {num_threads} processes failed ({error}). Unless one of them "
            "printed an error of its own, memory, shared memory (/dev/shm) or open files ran out: "
            "use a smaller --num_threads (0 loads in the main process)"
        ) from error
