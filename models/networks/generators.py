"""The generators: a ResNet and a U-Net.

Both map images (N, input_nc, H, W) in [-1, 1] to images (N, output_nc, H, W) in [-1, 1].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.norms import MakeNorm, conv_has_bias
from models.networks.sizes import check_image_size
from util.choices import choose

PADDINGS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d, "zero": nn.ZeroPad2d}


class ResnetGenerator(nn.Module):
    """Two steps down, residual blocks, two steps up (Johnson et al. 2016, arXiv 1603.08155).

    As in CycleGAN (arXiv 1703.10593, appendix 7.2), `ngf` channels in the first layer and 4 * ngf
    in the blocks. Images may have any size from `minimum` on, else ImageSizeError; `padding_type`
    is a name in `PADDINGS`, else ValueError.
    """

    minimum = 5  # the blocks reflect one pixel at a quarter of the size, which must be 2 or more

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        ngf: int = 64,
        norm_layer: MakeNorm = nn.BatchNorm2d,
        use_dropout: bool = False,
        n_blocks: int = 6,
        padding_type: str = "reflect",
    ):
        super().__init__()
        bias = conv_has_bias(norm_layer)
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7, bias=bias)]
        layers += [norm_layer(ngf), nn.ReLU()]
        for width in (ngf, 2 * ngf):
            layers += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)]
            layers += [norm_layer(2 * width), nn.ReLU()]
        for _ in range(n_blocks):
            layers += [ResnetBlock(4 * ngf, padding_type, norm_layer, use_dropout, bias)]
        for width in (2 * ngf, ngf):
            layers += [nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1, bias=bias)]
            layers += [norm_layer(width), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7)]
        self.model = nn.Sequential(*layers, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) to (N, output_nc, H, W)."""
        if not torch.jit.is_scripting():
            check_image_size(x, "ResNet generator", "use larger images", minimum=self.minimum)
        # The way up ends at the next multiple of 4, its pixel 0 on the input's pixel 0.
        return self.model(x)[..., : x.shape[-2], : x.shape[-1]]


class ResnetBlock(nn.Module):
    """x + F(x), F being two 3x3 convolutions (He et al. 2016, arXiv 1512.03385)."""

    def __init__(
        self, dim: int, padding_type: str, norm_layer: MakeNorm, use_dropout: bool, use_bias: bool
    ):
        super().__init__()
        pad = choose(PADDINGS, padding_type, "padding_type")
        # zeros are the convolution's own padding: no layer, which old state dicts count on
        padding, zeros = ([], 1) if pad is nn.ZeroPad2d else ([pad(1)], 0)

        def convolve() -> list[nn.Module]:
            return [*padding, nn.Conv2d(dim, dim, 3, padding=zeros, bias=use_bias), norm_layer(dim)]

        dropout = [nn.Dropout(0.5)] if use_dropout else []
        self.conv_block = nn.Sequential(*convolve(), nn.ReLU(), *dropout, *convolve())

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, H, W) to the same shape."""
        return x + self.conv_block(x)


class UnetGenerator(nn.Module):
    """An encoder and decoder with skip connections (arXiv 1505.04597, as in 1611.07004).

    The size is halved `num_downs` times, 5 or more (less counts as 5): images of 2**num_downs
    pixels reach 1x1 in the middle. The first layer has `ngf` channels; the inner ones have 8 * ngf,
    and the dropout. Height and width that `multiple` does not divide raise ImageSizeError.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        num_downs: int,
        ngf: int = 64,
        norm_layer: MakeNorm = nn.BatchNorm2d,
        use_dropout: bool = False,
    ):
        super().__init__()
        self.multiple = 2 ** max(num_downs, 5)
        nest = partial(UnetSkipConnectionBlock, norm_layer=norm_layer)
        block = nest(8 * ngf, 8 * ngf, innermost=True)
        for _ in range(num_downs - 5):
            block = nest(8 * ngf, 8 * ngf, submodule=block, use_dropout=use_dropout)
        for width in (4 * ngf, 2 * ngf, ngf):
            block = nest(width, 2 * width, submodule=block)
        self.model = nest(output_nc, ngf, input_nc=input_nc, submodule=block, outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, input_nc, H, W) to (N, output_nc, H, W)."""
        if not torch.jit.is_scripting():
            crop = f"--preprocess resize_and_crop --crop_size {self.multiple}"
            remedy = f"use {crop}, or --netG resnet_9blocks, which takes any size"
            check_image_size(x, "U-Net generator", remedy, multiple=self.multiple)
        return self.model(x)


class UnetSkipConnectionBlock(nn.Module):
    """One level of the U-Net: halve, go through `submodule`, double; and the skip around it.

    `input_nc` channels come in (`outer_nc` when left out), `inner_nc` are inside, `outer_nc` come
    out of the way up. The outermost has no activation and no norm before the way down, a tanh at
    the end and no skip; the innermost no norm on the way down: at 1x1 it would leave only zeros.
    """

    def __init__(
        self,
        outer_nc: int,
        inner_nc: int,
        input_nc: int | None = None,
        submodule: nn.Module | None = None,
        outermost: bool = False,
        innermost: bool = False,
        norm_layer: MakeNorm = nn.BatchNorm2d,
        use_dropout: bool = False,
    ):
        super().__init__()
        self.outermost = outermost
        bias = conv_has_bias(norm_layer)
        down = nn.Conv2d(input_nc or outer_nc, inner_nc, 4, 2, 1, bias=bias)
        wide = inner_nc if innermost else 2 * inner_nc  # with the skip of the level below
        up = nn.ConvTranspose2d(wide, outer_nc, 4, 2, 1, bias=bias or outermost)
        inner = [] if submodule is None else [submodule]
        if outermost:
            layers: list[nn.Module] = [down, *inner, nn.ReLU(), up, nn.Tanh()]
        elif innermost:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm_layer(outer_nc)]
        else:
            layers = [nn.LeakyReLU(0.2), down, norm_layer(inner_nc), *inner, nn.ReLU(), up]
            layers += [norm_layer(outer_nc)] + ([nn.Dropout(0.5)] if use_dropout else [])
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, outer_nc, H, W) to (N, 2 * outer_nc, H, W); outermost: to (N, outer_nc, H, W)."""
        if self.outermost:
            return self.model(x)
        skip = x = self.model[0](x)  # activated: what released checkpoints were trained with
        for place, layer in enumerate(self.model):
            if place > 0:
                x = layer(x)
        return torch.cat([skip, x], dim=1)


class Generator(NamedTuple):
    """A row of `GENERATORS`."""

    build: Callable[..., nn.Module]  # (input_nc, output_nc, ngf=, norm_layer=, use_dropout=)
    multiple: int  # height and width must be multiples of this ...
    minimum: int  # ... and at least this


GENERATORS = {
    "resnet_9blocks": Generator(partial(ResnetGenerator, n_blocks=9), 1, ResnetGenerator.minimum),
    "resnet_6blocks": Generator(partial(ResnetGenerator, n_blocks=6), 1, ResnetGenerator.minimum),
    "unet_256": Generator(partial(UnetGenerator, num_downs=8), 256, 256),
    "unet_128": Generator(partial(UnetGenerator, num_downs=7), 128, 128),
}
