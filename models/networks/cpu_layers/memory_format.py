"""Networks that compute in channels_last, which saves convolutions from reordering their inputs.

That is so inside only. What goes in and out is contiguous, gradients too, because somebody's own
layers around such a network may not be ready for another memory format (torch's instance norm is
not, see norms.py).
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.networks.discriminators import NLayerDiscriminator, PixelDiscriminator
from models.networks.generators import ResnetGenerator, UnetGenerator


class ToChannelsLast(torch.autograd.Function):
    """x in channels_last; the gradient comes out contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """A copy."""
        return x.clone(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Differentiable, for gradient penalties."""
        return gradient.contiguous()


class ChannelsLast(nn.Module):
    """What the next base class computes, in channels_last inside and contiguous outside.

    (In `forward`, not in hooks: those are compiled by themselves, three pieces for each network.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """As the next base class; float64, for which no convolution is faster, stays as it is."""
        if x.dtype == torch.float64:
            return super().forward(x)
        return super().forward(ToChannelsLast.apply(x)).contiguous()


class ResnetInChannelsLast(ChannelsLast, ResnetGenerator):
    """ResnetGenerator."""


class UnetInChannelsLast(ChannelsLast, UnetGenerator):
    """UnetGenerator."""


class PatchGANInChannelsLast(ChannelsLast, NLayerDiscriminator):
    """NLayerDiscriminator."""


class PixelGANInChannelsLast(ChannelsLast, PixelDiscriminator):
    """PixelDiscriminator."""


IN_CHANNELS_LAST = {
    ResnetGenerator: ResnetInChannelsLast,
    UnetGenerator: UnetInChannelsLast,
    NLayerDiscriminator: PatchGANInChannelsLast,
    PixelDiscriminator: PixelGANInChannelsLast,
}
