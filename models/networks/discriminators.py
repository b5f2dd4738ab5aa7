"""The discriminators: does each patch of an image look real?

All map images (N, input_nc, H, W) in [-1, 1] to one logit per patch, (N, 1, h, w).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.norms import MakeNorm, conv_has_bias
from models.networks.sizes import check_image_size

REMEDY = "use larger images, a smaller --n_layers_D (with --netD n_layers), or --netD pixel"


class NLayerDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, arXiv 1611.07004, section 3.2.2).

    `n_layers`, 1 or more, halve the size; the first has `ndf` channels, the later up to 8 * ndf.
    Each logit sees a square of 16, 34, 70, 142 or 286 pixels for n_layers 1 to 5.
    """

    def __init__(
        self, input_nc: int, ndf: int = 64, n_layers: int = 3, norm_layer: MakeNorm = nn.BatchNorm2d
    ):
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers is {n_layers}; a PatchGAN needs 1 or more")
        self.minimum = smallest_for_layers(n_layers)
        bias = conv_has_bias(norm_layer)
        widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
        layers = [nn.Conv2d(input_nc, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for n in range(1, n_layers + 1):
            stride = 2 if n < n_layers else 1
            layers += [nn.Conv2d(widths[n - 1], widths[n], 4, stride, padding=1, bias=bias)]
            layers += [norm_layer(widths[n]), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """To (N, 1, h, w), h = H // 2**n_layers - 2; ImageSizeError below `minimum`."""
        if not torch.jit.is_scripting():
            check_image_size(x, "PatchGAN discriminator", REMEDY, minimum=self.minimum)
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """A PatchGAN of one pixel: 1x1 convolutions only (arXiv 1611.07004, section 6.1)."""

    def __init__(self, input_nc: int, ndf: int = 64, norm_layer: MakeNorm = nn.BatchNorm2d):
        super().__init__()
        bias = conv_has_bias(norm_layer)
        layers = [nn.Conv2d(input_nc, ndf, 1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(ndf, 2 * ndf, 1, bias=bias), norm_layer(2 * ndf), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(2 * ndf, 1, 1, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) to one logit per pixel, (N, 1, H, W)."""
        return self.net(x)


def smallest_for_layers(n_layers: int) -> int:
    """The smallest height and width that leaves a patch after `n_layers` halvings."""
    return 3 * 2**n_layers  # the two last convolutions take away one pixel each


class Discriminator(NamedTuple):
    """A row of `DISCRIMINATORS`."""

    build: Callable[[int, int, int, MakeNorm], nn.Module]  # input_nc, ndf, n_layers, norm_layer
    minimum: Callable[[int], int]  # n_layers -> the smallest height and width


DISCRIMINATORS = {
    "basic": Discriminator(  # the 70x70 PatchGAN
        lambda nc, ndf, _, norm: NLayerDiscriminator(nc, ndf, 3, norm),
        lambda _: smallest_for_layers(3),
    ),
    "n_layers": Discriminator(NLayerDiscriminator, smallest_for_layers),
    "pixel": Discriminator(lambda nc, ndf, _, norm: PixelDiscriminator(nc, ndf, norm), lambda _: 1),
}
