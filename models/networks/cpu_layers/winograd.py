"""3x3 convolutions with 4/9 of the multiplications, for CPUs: Winograd's F(2x2, 3x3).

Lavin and Gray 2015, arXiv 1509.09308: each 2x2 pixels of the output come from a tile of 4x4 pixels
of the input, y = A' ((G w G') * (B' x B)) A. All factors are 0, 1, -1 and 1/2, so float32 stays as
exact as in torch's own kernels. Images are (N, H, W, C) here, which is what channels_last is in
memory; transformed images are (4, 4, N, tiles down, tiles across, C).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from models.networks.cpu_layers.norms import LAST, is_float32_last

CHANNELS, TILES = 192, 256  # from so many of both on it is faster
BAND = 2**21  # so many transformed numbers are in work at a time, which is little memory
G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
GG = torch.kron(G, G)  # (16, 9): G w G' as a product with the 9 numbers of w


class Conv3x3(nn.Conv2d):
    """nn.Conv2d of 3x3 pixels and stride 1: faster in channels_last and float32 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H + 2 * padding - 2, W + 2 * padding - 2)."""
        padding = int(self.padding[0])
        height, width = (size + 2 * padding - 2 for size in input.shape[2:])
        if not self._is_faster(input, len(input) * height * width // 4):
            return super().forward(input)
        down, across = (padding + size % 2 for size in (height, width))  # an even output
        if down or across:
            input = F.pad(input, (padding, across, padding, down))
        y = Winograd.apply(input, self.weight, self.bias)[..., :height, :width]
        return y.contiguous(memory_format=LAST)

    def _is_faster(self, x: Tensor, tiles: int) -> bool:
        large = min(self.in_channels, self.out_channels) >= CHANNELS and tiles >= TILES
        return large and is_float32_last(x) and not torch.is_autocast_enabled("cpu")


class Winograd(torch.autograd.Function):
    """A convolution without padding whose output has an even height and width."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(N, C, H, W) in channels_last, (K, C, 3, 3) and (K,) to (N, K, H - 2, W - 2)."""
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        x = x.permute(0, 2, 3, 1)
        kernels = transformed_kernels(weight).transpose(1, 2)
        y = x.new_empty(len(x), x.shape[1] - 2, x.shape[2] - 2, len(weight))
        for some, band, inner in bands(x):
            tiles = spread(spread(x[some, band]))
            products = torch.bmm(tiles.view(16, -1, tiles.shape[-1]), kernels)
            if bias is not None:
                products[5] += bias  # of the 16 the one that A' adds to each pixel
            collect(collect(products.view(*tiles.shape[:-1], -1)), y[some, inner])
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Each step transposed, in opposite order; differentiable where that was asked for."""
        x, weight = ctx.saved_tensors
        of_bias = gradient.sum((0, 2, 3)) if ctx.has_bias else None
        if torch.is_grad_enabled():  # in a backward pass only to differentiate it again
            of_x = conv2d_input(x.shape, weight, gradient)
            return of_x, conv2d_weight(x, weight.shape, gradient), of_bias
        x = x.permute(0, 2, 3, 1)
        g = gradient.contiguous(memory_format=LAST).permute(0, 2, 3, 1)
        kernels = transformed_kernels(weight)
        of_kernels, of_x = torch.zeros_like(kernels), torch.zeros_like(x)
        for some, band, inner in bands(x):
            products = collect_transposed(collect_transposed(g[some, inner]))
            shape = products.shape[:-1]
            products = products.view(16, -1, len(weight))
            tiles = spread(spread(x[some, band])).view(16, -1, x.shape[-1])
            of_kernels.baddbmm_(products.transpose(1, 2), tiles)
            of_tiles = torch.bmm(products, kernels, out=tiles).view(*shape, -1)
            of_x[some, band] += spread_transposed(spread_transposed(of_tiles))
        of_weight = (of_kernels.view(16, -1).T @ GG).view_as(weight)
        return of_x.permute(0, 3, 1, 2), of_weight, of_bias


def bands(x: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Images of (N, H, W, C), rows of them to make about `BAND` numbers, and the rows of output."""
    count, rows, columns, channels = x.shape
    down, across = rows // 2 - 1, columns // 2 - 1
    of_one = 16 * down * across * channels
    images = max(1, BAND // of_one)
    step = 2 * math.ceil(down / max(1, round(of_one / BAND)))
    for first in range(0, count, images):
        for start in range(0, rows - 2, step):
            end = min(start + step, rows - 2)
            yield slice(first, first + images), slice(start, end + 2), slice(start, end)


def transformed_kernels(weight: Tensor) -> Tensor:
    """G w G': (K, C, 3, 3) to (16, K, C)."""
    return (GG @ weight.reshape(-1, 9).T).view(16, *weight.shape[:2])


# The matrices along the third dimension: called twice, for the columns and for the rows.


def spread(x: Tensor) -> Tensor:
    """B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1], of tiles that overlap by two pixels."""
    a, b, c, d = x.unfold(2, 4, 2).unbind(-1)
    out = x.new_empty(4, *a.shape)
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])
    return out


def spread_transposed(parts: Tensor) -> Tensor:
    """B; the second and third pixels of tiles are all pixels but the first and last."""
    out = parts.new_empty(*parts.shape[1:3], 2 * parts.shape[3] + 2, *parts.shape[4:])
    a, b, c, d = out.unfold(2, 4, 2).unbind(-1)
    torch.sub(parts[1], parts[2], out=b).add_(parts[3])
    torch.add(parts[1], parts[2], out=c).sub_(parts[0])
    out[:, :, 0] = out[:, :, -1] = 0
    a.add_(parts[0])
    d.sub_(parts[3])
    return out


def collect(parts: Tensor, out: Tensor | None = None) -> Tensor:
    """A' = [1 1 1 0; 0 1 -1 -1], two pixels of each tile; into `out` if given."""
    if out is None:
        out = parts.new_empty(*parts.shape[1:3], 2 * parts.shape[3], *parts.shape[4:])
    left, right = out.unflatten(2, (-1, 2)).unbind(3)
    torch.add(parts[1], parts[2], out=left).add_(parts[0])
    torch.sub(parts[1], parts[2], out=right).sub_(parts[3])
    return out


def collect_transposed(x: Tensor) -> Tensor:
    """A."""
    left, right = x.unflatten(2, (-1, 2)).unbind(3)
    out = x.new_empty(4, *left.shape)
    out[0] = left
    torch.add(left, right, out=out[1])
    torch.sub(left, right, out=out[2])
    torch.neg(right, out=out[3])
    return out
