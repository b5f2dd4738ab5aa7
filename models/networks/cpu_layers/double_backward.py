"""Gradients that can be differentiated again, for layers with a backward pass of their own."""

from collections.abc import Sequence

import torch
from torch import Tensor


def gradients(y: Tensor, inputs: Sequence[Tensor | None], of_y: Tensor) -> list[Tensor | None]:
    """Those by each of the `inputs` that y was made of; None for what needs no gradient.

    Call it where torch.is_grad_enabled() in a backward pass: only then is more than one asked for.
    """
    needed = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(y, needed, of_y, create_graph=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]
