"""The generators: a ResNet and two U-Nets.

Both map pictures (N, input_nc, H, W) in [-1, 1] to pictures (N, output_nc, H, W) in [-1, 1].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.networks.activation_checkpointing import CheckpointsActivations
from models.networks.cpu_layers.memory_format import ChoosesMemoryFormat, in_layout_of
from models.networks.cpu_layers.small_maps import DoublingConv, HalvingConv
from models.networks.cpu_layers.winograd import Conv3x3
from models.networks.norms import NormLayer, conv_has_bias
from util.choices import choose
from util.errors import ImageSizeError

PADDINGS = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d, "zero": nn.ZeroPad2d}


class ResnetGenerator(CheckpointsActivations, ChoosesMemoryFormat):
    """Two steps down, residual blocks, two steps up (Johnson et al. 2016, arXiv 1603.08155).

    Follows CycleGAN (arXiv 1703.10593, appendix 7.2). Height and width may be any numbers from
    `minimum` on.
    """

    minimum = 5  # the blocks reflect one pixel at a quarter of the size, which must be 2 or more

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        ngf: int = 64,
        norm_layer: NormLayer = nn.BatchNorm2d,
        use_dropout: bool = False,
        n_blocks: int = 6,
        padding_type: str = "reflect",
    ):
        """Build the layers.

        Args:
            input_nc: channels of the input.
            output_nc: channels of the output.
            ngf: channels of the first layer; the blocks have 4 * ngf.
            norm_layer: number of channels -> norm layer.
            use_dropout: dropout of 0.5 within each block.
            n_blocks: number of residual blocks.
            padding_type: how the blocks pad: "reflect", "replicate" or "zero".
        """
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
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Translate pictures.

        Args:
            x: (N, input_nc, H, W), H and W at least `minimum`.

        Returns:
            (N, output_nc, H, W) in [-1, 1].

        Raises:
            ImageSizeError: the pictures are too small.
        """
        height, width = x.shape[-2:]
        if min(height, width) < self.minimum:
            raise ImageSizeError(
                f"a picture of {height}x{width} (height x width) pixels is too small for the "
                f"ResNet generator, which needs {self.minimum} or more both ways; use larger "
                "pictures, or raise --load_size and --crop_size"
            )
        x = self.enter(x)
        if self.recompute:
            for layers in self._stages():
                x = self.run(layers, x)
        else:
            x = self.model(x)
        # The way up ends at the next multiple of 4, its pixel 0 on the input's pixel 0.
        return self.leave(x[..., :height, :width])

    def _stages(self) -> list[list[nn.Module]]:
        """The layers in groups of one convolution, and the blocks."""
        stages: list[list[nn.Module]] = [[]]
        for layer in self.model:
            stages[-1].append(layer)
            if isinstance(layer, nn.ReLU | ResnetBlock):
                stages.append([])
        return stages


class ResnetBlock(nn.Module):
    """x + F(x), F being two 3x3 convolutions (He et al. 2016, arXiv 1512.03385)."""

    def __init__(
        self, dim: int, padding_type: str, norm_layer: NormLayer, use_dropout: bool, use_bias: bool
    ):
        """Build the layers.

        Args:
            dim: number of channels, in and out.
            padding_type: "reflect", "replicate" or "zero".
            norm_layer: number of channels -> norm layer.
            use_dropout: dropout of 0.5 between the convolutions.
            use_bias: whether the convolutions have a bias.

        Raises:
            ValueError: no such padding_type.
        """
        super().__init__()
        pad = choose(PADDINGS, padding_type, "padding_type")
        # zeros are the convolution's own padding: no layer, which old state dicts count on
        padding, zeros = ([], 1) if pad is nn.ZeroPad2d else ([pad(1)], 0)

        def convolve() -> list[nn.Module]:
            return [*padding, Conv3x3(dim, dim, padding=zeros, bias=use_bias), norm_layer(dim)]

        dropout = [nn.Dropout(0.5)] if use_dropout else []
        self.conv_block = nn.Sequential(*convolve(), nn.ReLU(), *dropout, *convolve())

    def forward(self, x: Tensor) -> Tensor:
        """(N, dim, H, W) to the same shape."""
        return x + self.conv_block(x)


class UnetGenerator(ChoosesMemoryFormat):
    """An encoder and decoder with skip connections (arXiv 1505.04597, as in 1611.07004)."""

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        num_downs: int,
        ngf: int = 64,
        norm_layer: NormLayer = nn.BatchNorm2d,
        use_dropout: bool = False,
    ):
        """Build the layers.

        Args:
            input_nc: channels of the input.
            output_nc: channels of the output.
            num_downs: how often the size is halved, 5 or more (less counts as 5): pictures of
                2**num_downs pixels reach 1x1 in the middle.
            ngf: channels of the first layer; the inner ones have 8 * ngf.
            norm_layer: number of channels -> norm layer.
            use_dropout: dropout of 0.5 in the inner blocks of 8 * ngf channels.
        """
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
        """Translate pictures.

        Args:
            x: (N, input_nc, H, W), H and W multiples of `multiple`.

        Returns:
            (N, output_nc, H, W) in [-1, 1].

        Raises:
            ImageSizeError: H or W is no such multiple.
        """
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ImageSizeError(
                f"this U-Net needs height and width to be multiples of {self.multiple}, not "
                f"{height}x{width} (height x width) pixels; use --preprocess resize_and_crop with "
                f"--crop_size a multiple of {self.multiple}, or --netG resnet_9blocks, which "
                "takes any size"
            )
        return self.leave(self.model(self.enter(x)))


class UnetSkipConnectionBlock(CheckpointsActivations):
    """One level of the U-Net: halve, go through `submodule`, double; and the skip around it."""

    def __init__(
        self,
        outer_nc: int,
        inner_nc: int,
        input_nc: int | None = None,
        submodule: nn.Module | None = None,
        outermost: bool = False,
        innermost: bool = False,
        norm_layer: NormLayer = nn.BatchNorm2d,
        use_dropout: bool = False,
    ):
        """Build the layers.

        Args:
            outer_nc: channels that come out of the way up.
            inner_nc: channels between this level and the next.
            input_nc: channels that come in; outer_nc when left out.
            submodule: the next level, None in the innermost.
            outermost: no activation and no norm before the way down, tanh at the end, no skip.
            innermost: no submodule, and no norm on the way down: at 1x1 it would leave only zeros.
            norm_layer: number of channels -> norm layer.
            use_dropout: dropout of 0.5 at the end of the way up, in levels between the two.
        """
        super().__init__()
        self.outermost = outermost
        bias = conv_has_bias(norm_layer)
        down = HalvingConv(input_nc or outer_nc, inner_nc, bias)
        up = DoublingConv(inner_nc if innermost else 2 * inner_nc, outer_nc, bias or outermost)
        if outermost:
            layers = [down, submodule, nn.ReLU(), up, nn.Tanh()]
        elif innermost:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, norm_layer(outer_nc)]
        else:
            layers = [nn.LeakyReLU(0.2), down, norm_layer(inner_nc), submodule, nn.ReLU(), up]
            layers += [norm_layer(outer_nc)] + ([nn.Dropout(0.5)] if use_dropout else [])
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, outer_nc, H, W) to (N, 2 * outer_nc, H, W); outermost: to (N, outer_nc, H, W)."""
        if self.outermost and not self.recompute:
            return self.model(x)
        layers = list(self.model)
        if not self.outermost:
            # The skip carries the activated features: what released checkpoints were trained with.
            x = layers.pop(0)(x)
        down, inner, up = _split(layers)
        y = self.run(up, inner(self.run(down, x)))
        return y if self.outermost else torch.cat([x, in_layout_of(x, y)], dim=1)


def _split(layers: list[nn.Module]) -> tuple[list[nn.Module], nn.Module, list[nn.Module]]:
    """The layers of a level before its submodule, that (or nothing), and the layers after it."""
    for place, layer in enumerate(layers):
        if isinstance(layer, UnetSkipConnectionBlock):
            return layers[:place], layer, layers[place + 1 :]
    return layers, nn.Identity(), []


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
