"""The order of an epoch, and which rank takes which part of it."""

from collections.abc import Iterator

import torch

from data.seeding import seed_of


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
