"""Networks for testing in bfloat16 or float16: weights of half the size, float32 pictures."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.inference import per_image


def halve(nets: Iterable[nn.Module], dtype: torch.dtype | None) -> None:
    """Let networks compute in `dtype`, in place; None leaves them as they are.

    Autocast, which training uses, casts all weights again for every batch. Only networks whose
    parts are all known are changed: another might mix its weights with float32, and is left to
    autocast.

    Args:
        nets: networks that take and return tensors.
        dtype: of weights and activations; norm layers keep float32 weights and statistics.
    """
    for net in nets:
        if dtype and not per_image.unsupported_modules([net]):
            _halve(net, dtype)


def _halve(net: nn.Module, dtype: torch.dtype) -> None:
    per_image.separate([net])  # as a batch of one in training mode, and then the faster norms
    per_image.use_channels_last_norms(net)
    for module in net.modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            module.to(dtype)
    net.to(memory_format=torch.channels_last)
    net.forward = _computing_in(net.forward, dtype)


def _computing_in(forward: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable:
    def forward_of_half(x: Tensor) -> Tensor:
        x = x.to(dtype, memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):
            return forward(x).float()

    return forward_of_half
