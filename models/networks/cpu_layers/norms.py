"""Instance and batch norm, right and exact in both memory formats. On a CPU torch's are neither.

The gradients of F.instance_norm are wrong for one image when the gradient that comes in is
channels_last (torch 2.14: relative error 1.4). And the kernels for channels_last add up a channel
in one running sum per thread: for 256x256 pixels off by 5e-6, contiguous by 6e-8. Here each row
has a sum of its own, by showing the same kernels an image whose channels are (row, channel).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAST = torch.channels_last
MANY = 1024  # pixels of a channel; the sum of fewer is exact anyway


class InstanceNorm2d(nn.InstanceNorm2d):
    """nn.InstanceNorm2d with right gradients in every memory format, and faster."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape in the same memory format."""
        if input.dim() != 4 or self.affine or self.track_running_stats:
            return super().forward(input.contiguous())
        channels = input.shape[1]
        if is_float32_last(input):
            one, zero = input.new_ones(channels), input.new_zeros(channels)
            return Normalised.apply(input, one, zero, self.eps)[0]
        last = not input.is_contiguous() and input.is_contiguous(memory_format=LAST)
        if input.device.type == "cpu" and not last:
            return F.group_norm(input.contiguous(), channels, eps=self.eps)
        if len(input) > 1 and not last:
            return F.instance_norm(input.contiguous(), eps=self.eps)
        images = [F.batch_norm(x, None, None, training=True, eps=self.eps) for x in input.split(1)]
        return images[0] if len(images) == 1 else torch.cat(images)


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, as exact in channels_last on a CPU as in the contiguous format."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape in the same memory format."""
        pixels = input.numel() // input.shape[1]
        if not self.training or not self.affine or pixels < MANY or not is_float32_last(input):
            return super().forward(input)
        # the batch in channels_last is also one image with all rows below each other
        rows = input.transpose(0, 1).flatten(1, 2).unsqueeze(0)
        y, mean, variance = Normalised.apply(rows, self.weight, self.bias, self.eps)
        running, spread, count = self.running_mean, self.running_var, self.num_batches_tracked
        if running is not None and spread is not None and count is not None:
            count.add_(1)
            share = 1 / count.item() if self.momentum is None else self.momentum
            running.lerp_(mean.flatten(), share)
            spread.lerp_(variance.flatten() * (pixels / (pixels - 1)), share)
        return y.squeeze(0).unflatten(1, (len(input), -1)).transpose(0, 1)


def is_float32_last(x: Tensor) -> bool:
    """Whether x is what the kernels here are for; compiled code sums exactly by itself."""
    here = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
    return here and not x.is_contiguous() and x.is_contiguous(memory_format=LAST)


class Normalised(torch.autograd.Function):
    """Each channel of each image with mean 0 and variance 1, then `weight` times it + `bias`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple:
        """(N, C, H, W) in channels_last to the same, and the means and variances (N, C, 1, 1)."""
        mean, variance = _by_image(mean_and_variance, x)
        inverse = (variance + eps).rsqrt()
        scale = inverse * weight[:, None, None]
        ctx.save_for_backward(x, mean, inverse, weight, bias)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias[:, None, None] - mean * scale, x, scale), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """(g - mean(g) - y · mean(g · y)) · scale; differentiable where that was asked for."""
        x, mean, inverse, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # in a backward pass only to differentiate it again

            def by_torch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return F.group_norm(x.contiguous(), x.shape[1], weight, bias, ctx.eps)

            pull_back = torch.func.vjp(by_torch, x, weight, bias)[1]
            return *pull_back(gradient.contiguous()), None
        gradient = gradient.contiguous(memory_format=LAST)
        product, plain = _by_image(_sums, gradient, x, mean, inverse)
        pixels = x[0, 0].numel()
        scale = inverse * weight[:, None, None]
        of_x = -scale * inverse * product / pixels
        constant = -scale * plain / pixels - of_x * mean
        y = torch.addcmul(constant, gradient, scale).addcmul_(x, of_x)
        return y, product.sum((0, 2, 3)), plain.sum((0, 2, 3)), None


def _by_image(statistics: Callable[..., tuple], *batches: Tensor) -> tuple[Tensor, Tensor]:
    """Two statistics (C,) of each image as (N, C, 1, 1) each."""
    found = [statistics(*images) for images in zip(*(b.split(1) for b in batches), strict=True)]
    first, second = (torch.stack(values)[..., None, None] for values in zip(*found, strict=True))
    return first, second


def _rows_as_channels(image: Tensor) -> Tensor:
    """(1, C, H, W) in channels_last, its memory seen as (1, H * C, W, 1)."""
    _, channels, height, width = image.shape
    return image.permute(0, 2, 3, 1).reshape(1, width, height * channels).mT.unsqueeze(3)


def mean_and_variance(image: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the rows, put together (Chan et al. 1979)."""
    rows = image.shape[2]
    means, variances = torch.batch_norm_update_stats(_rows_as_channels(image), None, None, 0.0)
    means, variances = means.view(rows, -1), variances.view(rows, -1)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


def _sums(gradient: Tensor, image: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of gradient · normalised image, and of the gradient."""
    rows = image.shape[2]
    _, products, sums = torch.ops.aten.native_batch_norm_backward(
        _rows_as_channels(gradient), _rows_as_channels(image), None, None, None,
        mean.flatten().repeat(rows), inverse.flatten().repeat(rows), True, 0.0, [False, True, True],
    )  # fmt: skip
    return products.view(rows, -1).sum(0), sums.view(rows, -1).sum(0)
