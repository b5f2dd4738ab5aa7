"""A buffer of generated images for the discriminator."""

import random
from typing import Any

import torch
from torch import Tensor


class ImagePool:
    """Shows the discriminator older images too (Shrivastava et al. 2017, arXiv 1612.07828).

    It keeps `pool_size` of them in `images`, each (C, H, W) without gradient; 0 for no buffer.
    """

    def __init__(self, pool_size: int):
        self.pool_size = pool_size
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        """Swap some of `images` for older ones; draws from Python's `random`.

        Args:
            images: (N, C, H, W), generator output in [-1, 1]; detached here.

        Returns:
            (N, C, H, W): while the buffer fills, `images`; then each is, with probability 1/2,
            one from the buffer, where it takes the other's place.
        """
        if self.pool_size == 0:
            return images.detach()
        return torch.stack([self._exchange(image) for image in images.detach()])

    def _exchange(self, image: Tensor) -> Tensor:
        if len(self.images) < self.pool_size:
            self.images.append(image.clone())  # a view would keep the whole batch in memory
            return image
        if random.uniform(0, 1) <= 0.5:
            return image
        place = random.randint(0, self.pool_size - 1)
        older, self.images[place] = self.images[place], image.clone()
        return older.to(image.device)  # one that was loaded is still on the CPU

    def state_dict(self) -> dict[str, Any]:
        """The images, for the training state."""
        return {"images": list(self.images)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the images of `state_dict`, as many as there is room for."""
        self.images = [image.clone() for image in state["images"][: self.pool_size]]
