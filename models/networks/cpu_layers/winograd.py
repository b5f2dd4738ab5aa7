"""3x3 convolutions with 4/9 of the multiplications, for CPUs: Winograd's F(2x2, 3x3).

Lavin and Gray 2015, arXiv 1509.09308: each 2x2 pixels of the output come from a tile of 4x4 pixels
of the input, y = A' ((G w G') * (B' x B)) A, with A' = [1 1 1 0; 0 1 -1 -1] and the G and B below.
All factors are 0, 1, -1 and 1/2, so float32 stays as exact as in torch's own kernels. cuDNN chooses
it on GPUs; torch's kernels for CPUs do not have it.

The functions take images as (N, H, W, C), which is what channels_last is in memory. Transformed
images are (4, 4, N, tiles down, tiles across, C).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

LAST = torch.channels_last
CHANNELS, TILES = 192, 256  # from so many of both on it is faster
BAND = 2**22  # so many transformed numbers are in work at a time, which is little memory


class Conv3x3(nn.Conv2d):
    """nn.Conv2d of 3x3 pixels and stride 1: faster in channels_last and float32 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H + 2 * padding - 2, W + 2 * padding - 2)."""
        count, _, height, width = input.shape
        padding = int(self.padding[0])
        height, width = (size + 2 * padding - 2 for size in (height, width))
        if not self._is_faster(input, count * height * width // 4):
            return super().forward(input)
        down, across = (padding + size % 2 for size in (height, width))  # an even output
        if down or across:
            input = F.pad(input, (padding, across, padding, down))
        y = Winograd.apply(input, self.weight, self.bias)[..., :height, :width]
        return y.contiguous(memory_format=LAST)

    def _is_faster(self, x: Tensor, tiles: int) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and x.is_contiguous(memory_format=LAST)
            and not torch.compiler.is_compiling()
            and min(self.in_channels, self.out_channels) >= CHANNELS
            and tiles >= TILES
        )


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
            tiles = transformed(x[some, band])
            products = torch.bmm(tiles.view(16, -1, tiles.shape[-1]), kernels)
            if bias is not None:
                products[5] += bias  # of the 16 the one that A' adds to each pixel
            transform_back(products.view(*tiles.shape[:-1], -1), y[some, inner])
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
            products = transform_back_transposed(g[some, inner])
            shape = products.shape[:-1]
            products = products.view(16, -1, len(weight))
            tiles = transformed(x[some, band]).view(16, -1, x.shape[-1])
            of_kernels.baddbmm_(products.transpose(1, 2), tiles)
            of_tiles = torch.bmm(products, kernels, out=tiles)
            of_x[some, band] += transformed_transposed(of_tiles.view(*shape, -1))
        of_weight = (of_kernels.view(16, -1).T @ kernel_matrix(weight)).view_as(weight)
        return of_x.permute(0, 3, 1, 2), of_weight, of_bias


def bands(x: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Some images of (N, H, W, C), rows of theirs, and the rows of an output that these make.

    They have about `BAND` numbers once transformed: whole images, or a part of one.
    """
    count, rows, columns, channels = x.shape
    down, across = rows // 2 - 1, columns // 2 - 1
    of_one = 16 * down * across * channels
    images = max(1, BAND // of_one)
    step = 2 * math.ceil(down / max(1, round(of_one / BAND)))
    for first in range(0, count, images):
        for start in range(0, rows - 2, step):
            end = min(start + step, rows - 2)
            yield slice(first, first + images), slice(start, end + 2), slice(start, end)


def kernel_matrix(weight: Tensor) -> Tensor:
    """(16, 9): G w G' as a product with the 9 numbers of w."""
    G = weight.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.kron(G, G)


def transformed_kernels(weight: Tensor) -> Tensor:
    """G w G': (K, C, 3, 3) to (16, K, C)."""
    return (kernel_matrix(weight) @ weight.reshape(-1, 9).T).view(16, *weight.shape[:2])


def tiles_along(x: Tensor, dim: int) -> tuple[Tensor, ...]:
    """Four views of x: the first, second, third and fourth pixel of each tile."""
    return x.unfold(dim, 4, 2).unbind(-1)


def transformed(x: Tensor) -> Tensor:
    """B' x B of tiles of 4x4 that overlap by two: (N, H, W, C) to (4, 4, N, down, across, C)."""
    count, rows, columns, channels = x.shape
    down, across = rows // 2 - 1, columns // 2 - 1
    halfway = x.new_empty(4, count, down, columns, channels)
    spread(x, 1, halfway)
    out = x.new_empty(4, 4, count, down, across, channels)
    for part, its in zip(halfway, out, strict=True):
        spread(part, 2, its)
    return out


def spread(x: Tensor, dim: int, out: Tensor) -> None:
    """B' = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1] along one dimension."""
    a, b, c, d = tiles_along(x, dim)
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])


def transformed_transposed(tiles: Tensor) -> Tensor:
    """The gradient of `transformed`."""
    _, _, count, down, across, channels = tiles.shape
    halfway = tiles.new_empty(4, count, down, 2 * across + 2, channels)
    for part, its in zip(halfway, tiles, strict=True):
        spread_transposed(its, 2, part)
    out = tiles.new_empty(count, 2 * down + 2, 2 * across + 2, channels)
    spread_transposed(halfway, 1, out)
    return out


def spread_transposed(parts: Tensor, dim: int, out: Tensor) -> None:
    """The gradient of `spread`; second and third pixels of tiles are all but the first and last."""
    a, b, c, d = tiles_along(out, dim)
    torch.sub(parts[1], parts[2], out=b).add_(parts[3])
    torch.add(parts[1], parts[2], out=c).sub_(parts[0])
    out.select(dim, 0).zero_()
    out.select(dim, -1).zero_()
    a.add_(parts[0])
    d.sub_(parts[3])


def transform_back(products: Tensor, out: Tensor) -> None:
    """A' m A: (4, 4, N, down, across, K) to (N, 2 * down, 2 * across, K)."""
    pixels = out.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    middle, difference = products[1] + products[2], products[1] - products[2]
    middle += products[0]
    difference -= products[3]
    for row, m in enumerate((middle, difference)):
        torch.add(m[1], m[2], out=pixels[:, :, row, :, 0]).add_(m[0])
        torch.sub(m[1], m[2], out=pixels[:, :, row, :, 1]).sub_(m[3])


def transform_back_transposed(gradient: Tensor) -> Tensor:
    """The gradient of `transform_back`."""
    pixels = gradient.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    count, down, _, across, _, channels = pixels.shape
    out = gradient.new_empty(4, 4, count, down, across, channels)
    first, last = pixels.unbind(2)
    for g, to in zip((first, first + last, first - last, -last), out, strict=True):
        left, right = g.unbind(3)
        to[0] = left
        torch.add(left, right, out=to[1])
        torch.sub(left, right, out=to[2])
        torch.neg(right, out=to[3])
    return out
