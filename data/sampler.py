"""The order of an epoch, and which rank takes which part of it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from data.seeding import seed_of


@dataclass
class EpochSampler:
    """Deal one permutation of the images to the ranks, as lists of (epoch, index).

    Step k takes the k-th group of batch_size * world_size images, and rank r the r-th part of it.
    If the last group does not divide by the number of ranks, images from the beginning of the
    epoch fill it up, so that all ranks do the same number of steps.
    """

    size: int  # of the dataset
    batch_size: int  # of one rank
    seed: int = 0
    shuffle: bool = True
    limit: float = float("inf")  # on the images of an epoch
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    start: int = 0  # images, over all ranks, to leave out at the beginning

    @property
    def images(self) -> int:
        """The number of images in an epoch, over all ranks."""
        return int(min(self.size, self.limit))

    def order(self) -> list[int]:
        """The images of the whole epoch, over all ranks."""
        if not self.shuffle:
            return list(range(self.images))
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        return torch.randperm(self.size, generator=generator).tolist()[: self.images]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, epoch, step = self.order(), self.epoch, self.batch_size * self.world_size
        for first in range(self.start, len(order), step):
            group = order[first : first + step]
            group += [order[i % len(order)] for i in range(-len(group) % self.world_size)]
            share = len(group) // self.world_size
            yield [(epoch, i) for i in group[self.rank * share : (self.rank + 1) * share]]
