"""Networks for testing in bfloat16 or float16: weights of half the size, float32 images."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.inference.batching import normalize_per_image, unsupported_modules

MANY_PIXELS = 1024  # from here on group norm is the faster one


def to_half_precision(nets: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Let networks compute in `dtype`, in place; norm layers keep float32 weights and statistics.

    Autocast casts all weights for every batch; a network with unknown parts is left to it.
    """
    for net in nets:
        if not unsupported_modules([net]):
            normalize_per_image([net])
            for module in net.modules():
                if isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats:
                    module.__class__ = ChannelsLastNorm
                if isinstance(module, (_ConvNd, nn.Linear)):
                    module.to(dtype)
            net.to(memory_format=torch.channels_last)
            net.forward = partial(_compute_in, dtype, net.forward)


def _compute_in(dtype: torch.dtype, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.to(dtype, memory_format=torch.channels_last)
    with torch.autocast(x.device.type, enabled=False):
        return forward(x).float()


class ChannelsLastNorm(nn.InstanceNorm2d):
    """Instance norm without F.instance_norm's copies on a CPU; not exact enough for float32."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        weight, bias, eps = self.weight, self.bias, self.eps
        if input.device.type != "cpu":
            return F.instance_norm(input, weight=weight, bias=bias, eps=eps)
        if input[0, 0].numel() >= MANY_PIXELS:
            return F.group_norm(input, input.shape[1], weight, bias, eps)
        images = input.split(1)
        return torch.cat([F.batch_norm(x, None, None, weight, bias, True, 0, eps) for x in images])
