"""Mean 0 and variance 1 in channels_last on a CPU, as exact as in the contiguous layout.

torch's kernels for this layout add up a channel in one running sum per thread; for 256x256 pixels
the result is off by 5e-6, for the contiguous layout by 6e-8. Here each row of a picture is summed
by itself, by showing the same kernels a picture whose channels are (row, channel).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.networks.cpu_layers import double_backward

LAST = torch.channels_last


def is_exact_last(x: Tensor) -> bool:
    """Whether x is what `Normalised` is for; compiled code, for one, sums exactly by itself."""
    here = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
    return here and not x.is_contiguous() and x.is_contiguous(memory_format=LAST)


class Normalised(torch.autograd.Function):
    """Each channel of each picture with mean 0 and variance 1, then `weight` times it + `bias`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) in channels_last to the same, and the means and variances (N, C, 1, 1)."""
        statistics = [_mean_and_variance(picture) for picture in x.split(1)]
        mean, variance = (
            torch.stack(values)[..., None, None] for values in zip(*statistics, strict=True)
        )
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight[:, None, None]
        shift = -mean * scale if bias is None else bias[:, None, None] - mean * scale
        ctx.save_for_backward(x, mean, inverse, weight, bias)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(shift, x, scale), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """(g - mean(g) - y · mean(g · y)) · scale; differentiable where that was asked for."""
        x, mean, inverse, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            y = F.group_norm(x.contiguous(), x.shape[1], weight, bias, ctx.eps)
            return *double_backward.gradients(y, (x, weight, bias), gradient.contiguous()), None
        gradient = gradient.contiguous(memory_format=LAST)
        sums = [
            _sums(*parts)
            for parts in zip(*(t.split(1) for t in (gradient, x, mean, inverse)), strict=True)
        ]
        product, plain = (
            torch.stack(values)[..., None, None] for values in zip(*sums, strict=True)
        )
        of_weight = None if weight is None else product.sum((0, 2, 3))
        of_bias = None if bias is None else plain.sum((0, 2, 3))
        pixels = x[0, 0].numel()
        scale = inverse if weight is None else inverse * weight[:, None, None]
        of_x = -scale * inverse * product / pixels
        constant = -scale * plain / pixels - of_x * mean
        return torch.addcmul(constant, gradient, scale).addcmul_(x, of_x), of_weight, of_bias, None


def _rows_as_channels(picture: Tensor) -> Tensor:
    """(1, C, H, W) in channels_last, its memory seen as (1, H * C, W, 1)."""
    _, channels, height, width = picture.shape
    pixels = picture.permute(0, 2, 3, 1).reshape(1, width, height * channels)
    return pixels.permute(0, 2, 1).unsqueeze(3)


def _mean_and_variance(picture: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) each: those of the rows, put together (Chan et al. 1979)."""
    rows = picture.shape[2]
    means, variances = torch.batch_norm_update_stats(_rows_as_channels(picture), None, None, 0.0)
    means, variances = means.view(rows, -1), variances.view(rows, -1)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


def _sums(
    gradient: Tensor, picture: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """(C,) each: the sums of gradient · normalised picture, and of the gradient."""
    rows = picture.shape[2]
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        _rows_as_channels(gradient), _rows_as_channels(picture), None, None, None,
        mean.flatten().repeat(rows), inverse.flatten().repeat(rows), True, 0.0, [False, True, True],
    )  # fmt: skip
    return products.view(rows, -1).sum(0), sums.view(rows, -1).sum(0)
