"""Networks for testing in bfloat16 or float16: weights of half the size, float32 images."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.inference.batching import normalize_per_image, unsupported_modules

MANY_PIXELS = 1024  # from here on group norm is the faster one


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
        if dtype and not unsupported_modules([net]):
            _halve(net, dtype)


def _halve(net: nn.Module, dtype: torch.dtype) -> None:
    normalize_per_image([net])
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm2d) and not child.track_running_stats:
                setattr(module, name, ChannelsLastNorm(child))
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


class ChannelsLastNorm(nn.Module):
    """Instance norm for the CPU and channels_last, where F.instance_norm copies.

    Its sums of squares are as exact as bfloat16 and float16 are, not as float32 is.
    """

    def __init__(self, norm: nn.InstanceNorm2d) -> None:
        """Take over weight, bias and epsilon of `norm`."""
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, still channels_last."""
        if x.device.type != "cpu":
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        if x.shape[2] * x.shape[3] >= MANY_PIXELS:
            return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        return torch.cat([self._of_one(image) for image in x.split(1)])

    def _of_one(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
