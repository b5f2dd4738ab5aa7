"""Networks that compute in channels_last: the layout in which convolutions need no reordering.

It is a matter of the inside only. What goes in and out is contiguous, gradients too, because
somebody's own layers around such a network may not be ready for another layout (torch's
instance norm is not, see models/networks/cpu_layers/instance_norm.py).
"""

from typing import Any

import torch
from torch import Tensor, nn

LAST = torch.channels_last


class ChoosesMemoryFormat(nn.Module):
    """A network whose `forward` begins with `enter` and ends with `leave`.

    (In its code, not in hooks: those are compiled by themselves, three pieces for each network.)
    """

    computes_in_channels_last = False  # set it to True and that is what it does

    def enter(self, x: Tensor) -> Tensor:
        """The input, in the layout of the inside."""
        if not self.computes_in_channels_last or x.dtype == torch.float64:
            return x  # no fast convolution takes float64
        return ToChannelsLast.apply(x)

    def leave(self, output: Tensor) -> Tensor:
        """The output, in the layout of the outside."""
        return output.contiguous() if self.computes_in_channels_last else output


class ToChannelsLast(torch.autograd.Function):
    """x in channels_last; the gradient comes out contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """A copy."""
        return x.clone(memory_format=LAST)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Differentiable, for gradient penalties."""
        return gradient.contiguous()


def in_layout_of(other: Tensor, x: Tensor) -> Tensor:
    """`x` in the layout of `other`; itself where it is that already."""
    last = not other.is_contiguous() and other.is_contiguous(memory_format=LAST)
    return x.contiguous(memory_format=LAST if last else torch.contiguous_format)
