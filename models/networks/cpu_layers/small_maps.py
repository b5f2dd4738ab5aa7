"""Convolutions of 4x4 pixels, stride 2 and padding 1 over feature maps of few pixels, for CPUs.

In the middle of a U-Net a layer has more weights than its maps have numbers. torch's kernels
reorder the weights in each call, which takes longer than the work; a matrix product does not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIXELS = 256  # of all images of a batch, at the smaller end: up to so many it is faster


class HalvingConv(nn.Conv2d):
    """nn.Conv2d of 4x4 pixels, stride 2 and padding 1."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H // 2, W // 2)."""
        size = [pixels // 2 for pixels in input.shape[2:]]
        if not _is_faster(input, self.weight, len(input) * size[0] * size[1]):
            return super().forward(input)
        patches = F.unfold(input, 4, padding=1, stride=2).transpose(0, 1)
        y = torch.mm(self.weight.flatten(1), patches.flatten(1))
        y = y.view(-1, len(input), *size).transpose(0, 1).contiguous()
        return y if self.bias is None else y + self.bias[:, None, None]


class DoublingConv(nn.ConvTranspose2d):
    """nn.ConvTranspose2d of 4x4 pixels, stride 2 and padding 1."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, 2 * H, 2 * W), without `output_size`."""
        count, _, height, width = input.shape
        if output_size or not _is_faster(input, self.weight, count * height * width):
            return super().forward(input, output_size)
        pixels = input.permute(0, 2, 3, 1).flatten(0, 2)
        patches = torch.mm(pixels, self.weight.flatten(1)).unflatten(0, (count, -1)).mT
        y = F.fold(patches, (2 * height, 2 * width), 4, padding=1, stride=2)
        return y if self.bias is None else y + self.bias[:, None, None]


def _is_faster(x: Tensor, weight: Tensor, pixels: int) -> bool:
    return x.device.type == "cpu" and pixels <= PIXELS and weight.is_contiguous()
