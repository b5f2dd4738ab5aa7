"""Images too large to be translated in one piece: tile by tile, without seams, in bounded memory.

A ResNet gives the image that the whole forward pass gives. It goes over the image in bands of rows
as wide as it; a band asks the layer before it for the rows that its convolution needs, and the
statistics of a norm are joined over all bands before the next layer begins. The residual blocks
keep two maps of features at a quarter of the size; the layers around them, an eighth of the work,
are computed again where they are needed.

A U-Net sees tiles of the size that it was trained on, which overlap and are blended. All tiles go
through a layer before the next begins, so that its norms have the statistics of the whole image.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from models.inference.features import (
    Convolved,
    Kept,
    Mapped,
    Padded,
    Rows,
    Source,
    Upsampled,
    Work,
    normalized,
)
from models.networks.cpu_layers import PLAIN
from models.networks.generators import (
    ResnetBlock,
    ResnetGenerator,
    UnetGenerator,
    UnetSkipConnectionBlock,
)

OVERLAP = 4  # tiles of a U-Net overlap by a quarter
PADS = {nn.ReflectionPad2d: "reflect", nn.ReplicationPad2d: "replicate", nn.ZeroPad2d: "constant"}

KNOWN = {  # besides convolutions: what is computed here as the layer itself does it
    *(ResnetGenerator, ResnetBlock, UnetGenerator, UnetSkipConnectionBlock, nn.Sequential),
    *(nn.ReLU, nn.LeakyReLU, nn.Tanh, nn.Dropout, nn.Identity, *PADS),
    *(nn.InstanceNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm),
}


def foreign_parts(net: nn.Module) -> str:
    """The modules, by class name, that would not come out right here; empty for our own networks.

    A class derived from ours may have another `forward`, and an edited network other layers: ones
    that look at neighbours, or at all of the image.
    """
    if PLAIN.get(type(net), type(net)) not in (ResnetGenerator, UnetGenerator):
        return type(net).__name__
    return ", ".join(sorted({type(part).__name__ for part in net.modules() if not _is_known(part)}))


def _is_known(module: Any) -> bool:
    kind = PLAIN.get(type(module), type(module))
    if module._forward_hooks or module._forward_pre_hooks:  # not every layer is called
        return False
    if kind in (nn.Conv2d, nn.ConvTranspose2d):
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return plain and module.groups == 1 and set(module.dilation) == {1}
    return kind in KNOWN


def translate_in_bands(net: ResnetGenerator, image: Tensor, work: Work) -> Tensor:
    """What the whole forward pass of a ResNet makes of an image (1, C, H, W)."""
    source: Source = Rows(image)
    layers = list(net.model)
    for place, layer in enumerate(layers):
        if isinstance(layer, ResnetBlock):
            if not isinstance(source, Kept):
                source = Kept(source, work, counted=False)
            _add_block(layer, source)
        elif isinstance(layer, _NormBase) and _is_worth_keeping(layers, place):
            source = normalized(Kept(source, work), layer, work)
        else:
            source = _after(layer, source, work)
    parts = [source.read(start, stop) for start, stop in work.parts(source)]
    return torch.cat(parts, 2)[..., : image.shape[2], : image.shape[3]]


def _is_worth_keeping(layers: Sequence[nn.Module], place: int) -> bool:
    """Whether the norm there is that before the blocks, or after the first step up."""
    ahead = map(type, layers[place : place + 3])
    return ResnetBlock in ahead or isinstance(layers[place + 2], nn.ConvTranspose2d)


def _after(layer: nn.Module, source: Source, work: Work) -> Source:
    """Rows after a layer that is no block."""
    for kind, mode in PADS.items():
        if isinstance(layer, kind):
            return Padded(source, layer.padding, mode)  # type: ignore[arg-type]
    if isinstance(layer, nn.Conv2d):
        down, across = map(int, layer.padding)
        padded = Padded(source, (across, across, down, down), "constant") if down else source
        return Convolved(padded, layer)
    if isinstance(layer, nn.ConvTranspose2d):
        return Upsampled(source, layer)
    return normalized(source, layer, work)


def _add_block(block: ResnetBlock, x: Kept) -> None:
    """Put x + F(x) in the place of x; the two convolutions are computed once."""
    layers = list(block.conv_block)
    first, second = (i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    through = partial(_through, work=x.work)
    inner = Kept(through(layers[: first + 1], x), x.work)
    inner.rewrite(lambda old: through(layers[first + 1 : second + 1], old))
    total = Mapped(torch.add, [x, through(layers[second + 1 :], inner)])
    for start, stop in x.work.parts(total):
        x.write(start, total.read(start, stop))


def _through(layers: Iterable[nn.Module], source: Source, work: Work) -> Source:
    for layer in layers:
        source = _after(layer, source, work)
    return source


@dataclass
class Tiles(Source):
    """Squares of an image (1, C, H, W) at `places` (top, left)."""

    image: Tensor
    side: int
    places: Sequence[tuple[int, int]]
    tiles = True

    def __post_init__(self) -> None:
        self.length = len(self.places)

    def read(self, start: int, stop: int) -> Tensor:
        """Tiles as a batch."""
        places = self.places[start:stop]
        return torch.cat([_square(self.image, self.side, place) for place in places])


def _square(image: Tensor, side: int, place: tuple[int, int]) -> Tensor:
    return image[..., place[0] : place[0] + side, place[1] : place[1] + side]


def translate_in_tiles(net: UnetGenerator, image: Tensor, side: int, work: Work) -> Tensor:
    """What a U-Net makes of an image (1, C, H, W) that is no smaller than a tile."""
    down, across = (_starts(size, side) for size in image.shape[2:])
    places = [(top, left) for top in down for left in across]
    source = _unet(net.model, Tiles(image, side, places), work)
    ramp = (torch.arange(side, device=image.device) + 0.5) * (math.pi / side)
    window = (ramp.sin()[:, None] * ramp.sin()).square()
    result = image.new_zeros(1, source.read(0, 1).shape[1], *image.shape[2:])
    weights = torch.zeros_like(result[:, :1])
    for start, stop in work.parts(source):
        for place, tile in zip(places[start:stop], source.read(start, stop), strict=True):
            _square(result, side, place).add_(tile * window)
            _square(weights, side, place).add_(window)
    return result.div_(weights)


def _starts(size: int, side: int) -> list[int]:
    """Where tiles begin that cover `size` pixels evenly, with an overlap of a quarter or more."""
    count = max(0, math.ceil((size - side) / (side - side // OVERLAP)))
    return [round(i * (size - side) / max(1, count)) for i in range(count + 1)]


def _unet(block: UnetSkipConnectionBlock, source: Source, work: Work) -> Source:
    """All tiles through a level of the U-Net, as in its `forward`."""
    layers = list(block.model)
    if not block.outermost:
        source = Mapped(layers.pop(0), [source])
    skip = source
    for layer in layers:
        if isinstance(layer, UnetSkipConnectionBlock):
            source = _unet(layer, source, work)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            source = Mapped(layer, [source])
            last = block.outermost and isinstance(layer, nn.ConvTranspose2d)  # read only once
            source = source if last else Kept(source, work)
        else:
            source = normalized(source, layer, work)
    return source if block.outermost else Mapped(_join, [skip, source])


def _join(skip: Tensor, x: Tensor) -> Tensor:
    return torch.cat([skip, x], 1)
