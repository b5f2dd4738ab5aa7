"""Faster layers with the results of torch's own, swapped in and out of a network in place.

They are for CPUs; their norms and channels_last serve a GPU too. Only the classes of modules
change: parameters, hooks and state-dict keys stay.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.networks.cpu_layers.norms import BatchNorm2d, InstanceNorm2d
from models.networks.cpu_layers.small_maps import DoublingConv, HalvingConv
from models.networks.cpu_layers.winograd import Conv3x3
from models.networks.discriminators import NLayerDiscriminator, PixelDiscriminator
from models.networks.generators import ResnetGenerator, UnetGenerator


class _ToChannelsLast(torch.autograd.Function):
    """A copy of x in channels_last; the gradient comes out contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


class _InChannelsLast(nn.Module):
    """What the next base class computes, in channels_last inside and contiguous outside.

    Layers around it may not be ready for another memory format: torch's instance norm is not (see
    norms.py). Not in hooks, which torch.compile compiles by themselves.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64:  # for which no convolution is faster
            return super().forward(x)
        return super().forward(_ToChannelsLast.apply(x)).contiguous()


IN_CHANNELS_LAST: dict[type, type] = {
    net: type(f"{net.__name__}InChannelsLast", (_InChannelsLast, net), {"__module__": __name__})
    for net in (ResnetGenerator, UnetGenerator, NLayerDiscriminator, PixelDiscriminator)
}
globals().update((kind.__name__, kind) for kind in IN_CHANNELS_LAST.values())  # for pickle

NORMS: dict[type, type] = {nn.InstanceNorm2d: InstanceNorm2d, nn.BatchNorm2d: BatchNorm2d}
CONVOLUTIONS: dict[tuple, type] = {  # class, size of the kernel, stride and padding
    (nn.Conv2d, (3, 3), (1, 1), (0, 0)): Conv3x3,
    (nn.Conv2d, (3, 3), (1, 1), (1, 1)): Conv3x3,
    (nn.Conv2d, (4, 4), (2, 2), (1, 1)): HalvingConv,
    (nn.ConvTranspose2d, (4, 4), (2, 2), (1, 1)): DoublingConv,
}
PLAIN = {faster: plain for plain, faster in (NORMS | IN_CHANNELS_LAST).items()}
PLAIN |= {faster: plain for (plain, *_), faster in CONVOLUTIONS.items()}


def swap_in(net: nn.Module, device: torch.device, precision: str, training: bool = True) -> None:
    """Let the networks of this program that are in `net` use the faster layers, in place.

    In training they compute in channels_last where that is faster and harmless: in half precision
    (`util.precision.PRECISIONS`), but not a ResNet on CUDA, where reflection padding returns
    contiguous images; and in float32 on a CPU unless another batch norm is in there (so call this
    after `distributed.wrap`). In testing the memory format, and the last bit, stay.
    """
    swap_out(net)
    for part in list(net.modules()):
        if type(part) in IN_CHANNELS_LAST:
            for layer in part.modules():
                layer.__class__ = _faster(layer)
            norms = [layer for layer in part.modules() if isinstance(layer, _BatchNorm)]
            exact = all(isinstance(norm, BatchNorm2d) for norm in norms)
            half, on_cpu = precision in ("bf16", "fp16"), device.type == "cpu"
            half_on_cuda = half and device.type == "cuda" and type(part) is not ResnetGenerator
            if training and (half_on_cuda or (on_cpu and (half or exact))):
                part.__class__ = IN_CHANNELS_LAST[type(part)]


def swap_out(net: nn.Module) -> None:
    """Make the layers in `net` torch's own again, to export it for example."""
    for module in net.modules():
        module.__class__ = PLAIN.get(type(module), type(module))


def _faster(layer: nn.Module) -> type[nn.Module]:
    """The faster class for `layer`; its own where there is none."""
    kind = type(layer)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        plain = layer.padding_mode == "zeros" and layer.groups == layer.dilation[0] == 1
        key = (kind, layer.kernel_size, layer.stride, layer.padding)
        return CONVOLUTIONS.get(key, kind) if plain and not any(layer.output_padding) else kind
    return NORMS.get(kind, kind)
