"""Instance and batch norm, right and exact in both memory formats.

torch's own are neither:

- F.instance_norm returns wrong gradients for a batch of one image on a CPU when the gradient that
  comes in is channels_last (torch 2.14: relative error 1.4; the output is right).
- The kernels for channels_last on a CPU add up a channel in one running sum per thread: for 256x256
  pixels the result is off by 5e-6, in the contiguous format by 6e-8. Here each row of an image is
  summed by itself, by showing the same kernels an image whose channels are (row, channel).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAST = torch.channels_last
MANY = 1024  # pixels of a channel; the sum of fewer is exact anyway


class InstanceNorm2d(nn.InstanceNorm2d):
    """nn.InstanceNorm2d with right gradients in every memory format, and faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each image of (N, C, H, W); the memory format is kept."""
        if input.dim() != 4 or self.affine or self.track_running_stats:
            return super().forward(input.contiguous())
        return instance_norm(input, self.eps)


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, as exact in channels_last on a CPU as in the contiguous format."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of (N, C, H, W) over the batch; the memory format is kept."""
        pixels = input.numel() // input.shape[1]
        if not self.training or not self.affine or pixels < MANY or not is_exact_last(input):
            return super().forward(input)
        # the batch in channels_last is also one image with all rows below each other
        rows = input.permute(0, 2, 3, 1).flatten(0, 1).unsqueeze(0).permute(0, 3, 1, 2)
        y, mean, variance = Normalised.apply(rows, self.weight, self.bias, self.eps)
        running, spread, count = self.running_mean, self.running_var, self.num_batches_tracked
        if running is not None and spread is not None and count is not None:
            count.add_(1)
            share = self.momentum
            if share is None:  # a plain average over all batches
                share = 1 / count.item()
            running.lerp_(mean.flatten(), share)
            spread.lerp_(variance.flatten() * (pixels / (pixels - 1)), share)
        y = y.permute(0, 2, 3, 1).unflatten(1, (len(input), -1)).squeeze(0)
        return y.permute(0, 3, 1, 2)


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Each channel of each image of (N, C, H, W) with mean 0 and variance 1; keeps the format.

    float64, which is for checks, goes by torch's plainest kernel.
    """
    if not x.is_contiguous() and x.is_contiguous(memory_format=LAST):
        if is_exact_last(x):
            return Normalised.apply(x, None, None, eps)[0]
        images = [_norm_of_one(image, eps) for image in x.split(1)]
        return images[0] if len(images) == 1 else torch.cat(images)
    x = x.contiguous()
    if x.device.type == "cpu" and x.dtype != torch.float64:
        return F.group_norm(x, x.shape[1], eps=eps)
    return _norm_of_one(x, eps) if len(x) == 1 else F.instance_norm(x, eps=eps)


def _norm_of_one(image: Tensor, eps: float) -> Tensor:
    """Batch norm of a batch of one."""
    return F.batch_norm(image, None, None, training=True, eps=eps)


def is_exact_last(x: Tensor) -> bool:
    """Whether x is what `Normalised` is for; compiled code, for one, sums exactly by itself."""
    here = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
    return here and not x.is_contiguous() and x.is_contiguous(memory_format=LAST)


class Normalised(torch.autograd.Function):
    """Each channel of each image with mean 0 and variance 1, then `weight` times it + `bias`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) in channels_last to the same, and the means and variances (N, C, 1, 1)."""
        mean, variance = _by_image(_mean_and_variance, x)
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
        if torch.is_grad_enabled():  # in a backward pass only to differentiate it again
            y = F.group_norm(x.contiguous(), x.shape[1], weight, bias, ctx.eps)
            return *_gradients(y, (x, weight, bias), gradient.contiguous()), None
        gradient = gradient.contiguous(memory_format=LAST)
        product, plain = _by_image(_sums, gradient, x, mean, inverse)
        of_weight = None if weight is None else product.sum((0, 2, 3))
        of_bias = None if bias is None else plain.sum((0, 2, 3))
        pixels = x[0, 0].numel()
        scale = inverse if weight is None else inverse * weight[:, None, None]
        of_x = -scale * inverse * product / pixels
        constant = -scale * plain / pixels - of_x * mean
        return torch.addcmul(constant, gradient, scale).addcmul_(x, of_x), of_weight, of_bias, None


def _gradients(y: Tensor, inputs: tuple[Tensor | None, ...], of_y: Tensor) -> list[Tensor | None]:
    """Differentiable ones, by each of the `inputs` of y; None for what needs no gradient."""
    needed = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(y, needed, of_y, create_graph=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


def _by_image(statistics: Any, *batches: Tensor) -> tuple[Tensor, Tensor]:
    """Two statistics (C,) of each image as (N, C, 1, 1) each."""
    found = [statistics(*images) for images in zip(*(b.split(1) for b in batches), strict=True)]
    first, second = (torch.stack(values)[..., None, None] for values in zip(*found, strict=True))
    return first, second


def _rows_as_channels(image: Tensor) -> Tensor:
    """(1, C, H, W) in channels_last, its memory seen as (1, H * C, W, 1)."""
    _, channels, height, width = image.shape
    pixels = image.permute(0, 2, 3, 1).reshape(1, width, height * channels)
    return pixels.permute(0, 2, 1).unsqueeze(3)


def _mean_and_variance(image: Tensor) -> tuple[Tensor, Tensor]:
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
