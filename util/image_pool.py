"""A buffer of generated images for the discriminator."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_asked: list["ImagePool"] | None = None


@contextmanager
def recording() -> Iterator[list["ImagePool"]]:
    """A block that records a CUDA graph: a list of the pools that it asks, in order.

    They have been fixed. Before each replay, call `prepare` of each.
    """
    global _asked
    asked: list[ImagePool] = []
    _asked = asked
    try:
        yield asked
    finally:
        _asked = None


class ImagePool:
    """Shows the discriminator older images too (Shrivastava et al. 2017, arXiv 1612.07828).

    It keeps `pool_size` of them in `images`, each (C, H, W) without gradient; 0 for no buffer.
    """

    def __init__(self, pool_size: int):
        self.pool_size = pool_size
        self.images: list[Tensor] = []
        self._memory: Tensor | None = None  # of `images`, where that has a fixed place

    def query(self, images: Tensor) -> Tensor:
        """Swap some of `images` for older ones; draws from Python's `random`.

        Args:
            images: (N, C, H, W), generator output in [-1, 1]; detached here.

        Returns:
            (N, C, H, W): while the buffer fills, `images`; then each is, with probability 1/2,
            one from the buffer, where it takes the other's place.
        """
        images = images.detach()
        if self.pool_size == 0:
            return images
        if self._memory is None:
            return torch.stack([self._exchange(image) for image in images])
        if _asked is None:
            self.prepare(len(images))
        else:
            _asked.append(self)
        return torch.stack([*self._exchange_at(self._memory, images)])

    def _draw(self) -> tuple[int, bool]:
        """The place for the next image, `pool_size` for none, and whether to show what is there."""
        if len(self.images) < self.pool_size:
            return len(self.images), False
        if random.uniform(0, 1) <= 0.5:
            return self.pool_size, False
        return random.randint(0, self.pool_size - 1), True

    def _exchange(self, image: Tensor) -> Tensor:
        place, swap = self._draw()
        if place == len(self.images) < self.pool_size:
            self.images.append(image.clone())  # a view would keep the whole batch in memory
        if not swap:
            return image
        older, self.images[place] = self.images[place], image.clone()
        return older.to(image.device)  # one that was loaded is still on the CPU

    def fix(self, count: int, device: torch.device) -> None:
        """Keep the images in the same memory from now on, as a CUDA graph needs; not if empty.

        The graph asks once, about `count` images.
        """
        if not self.images:
            return
        size = self.pool_size + 1, *self.images[0].shape  # the last place is for what is not kept
        self._memory = torch.zeros(size, dtype=self.images[0].dtype, device=device)
        for place, image in zip(self._memory, self.images, strict=False):
            place.copy_(image)
        self.images = list(self._memory[: len(self.images)])
        self._plan = torch.zeros(count, 2, dtype=torch.int64, device=device)

    def release(self) -> None:
        """Keep the images anywhere again; they may have other sizes then."""
        self._memory = None

    def prepare(self, count: int | None = None) -> None:
        """Draw what the next question to a fixed pool, about `count` images, will be answered."""
        assert self._memory is not None
        rows = []
        for _ in range(count or len(self._plan)):
            place, swap = self._draw()
            if len(self.images) < self.pool_size:
                self.images.append(self._memory[place])
            rows.append((place, swap))
        plan = torch.tensor(rows)
        if self._plan.is_cuda:
            plan = plan.pin_memory()
        self._plan[: len(rows)].copy_(plan, non_blocking=True)

    def _exchange_at(self, memory: Tensor, images: Tensor) -> Iterator[Tensor]:
        for image, row in zip(images, self._plan[: len(images)], strict=True):
            place, swap = row[:1], row[1].bool()
            older = memory.index_select(0, place)[0]
            memory.index_copy_(0, place, image[None])
            yield torch.where(swap, older, image)

    def state_dict(self) -> dict[str, Any]:
        """The images, for the training state."""
        return {"images": list(self.images)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the images of `state_dict`, as many as there is room for."""
        self.images = [image.clone() for image in state["images"][: self.pool_size]]
