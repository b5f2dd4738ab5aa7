"""Which sizes of images a network can take."""

import torch
from torch import Tensor

from util.errors import ImageSizeError


def size_problem(height: int, width: int, multiple: int = 1, minimum: int = 1) -> str | None:
    """What a network needs that images of this size do not have; None if it can take them.

    `GENERATORS` and `DISCRIMINATORS` have the multiple and the minimum of both sides, in pixels.
    """
    if height % multiple or width % multiple:
        return f"needs height and width to be multiples of {multiple}"
    if min(height, width) < minimum:
        return f"needs a height and width of {minimum} or more"
    return None


def check_image_size(x: Tensor, network: str, remedy: str, **limits: int) -> None:
    """Raise ImageSizeError if (N, C, H, W) is not within the limits, those of `size_problem`."""
    if torch.jit.is_tracing():  # a size is part of the trace there
        return
    height, width = x.shape[-2:]
    problem = size_problem(height, width, **limits)
    if problem:
        raise ImageSizeError(
            f"an image of {height}x{width} (height x width) pixels does not fit the {network}, "
            f"which {problem}; {remedy}"
        )
