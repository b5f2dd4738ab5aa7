"""Features of an image too large for the memory: computed part by part, when they are read.

A part is a band of rows, which asks the layer before it for the rows that its convolution needs, or
some tiles, which need no others. What is kept waits in main memory or in a file. tiling.py makes
the generators of these.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from tqdm import tqdm

from models.networks.cpu_layers.norms import is_float32_last, mean_and_variance
from models.networks.cpu_layers.winograd import Conv3x3
from util.files import explain_write_errors

IN_MEMORY = 3 << 29  # bytes of one map of features; larger ones wait in a file
TILE = 512  # the side of as many pixels as a band of a ResNet has
WIDTH = 64  # channels that are expected of so many pixels


@dataclass
class Work:
    """How large tiles are, where features wait, and the progress.

    `numbers` is the most that a tile may have; `folder` has room for a file (None: the system's).
    """

    numbers: int = TILE * TILE * WIDTH
    folder: Path | None = None
    bar: tqdm = field(default_factory=lambda: tqdm(disable=True))

    def parts(self, source: "Source") -> Iterator[tuple[int, int]]:
        """The first and last index of parts of a source, each within `numbers`."""
        step = max(1, int(self.numbers // source.width()))
        for start in range(0, source.length, step):
            yield start, min(start + step, source.length)
            self.bar.update(min(step, source.length - start) / source.length)


class Source(ABC):
    """Features of an image, computed when they are read: `length` rows, or tiles."""

    length: int
    tiles = False

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """Rows as (1, C, stop - start, W), or tiles as (stop - start, C, H, W)."""

    def width(self, *before: float) -> float:
        """The numbers that it takes to compute a row or a tile, in the widest layer on the way."""
        return max([float(self.read(0, 1).numel()), *before])


@dataclass
class Rows(Source):
    """The rows of an image (1, C, H, W)."""

    image: Tensor

    def __post_init__(self) -> None:
        self.length = self.image.shape[2]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows of the image."""
        return self.image[:, :, start:stop]


@dataclass
class Mapped(Source):
    """A function of each row, or of each tile, of sources."""

    function: Callable[..., Tensor]
    sources: Sequence[Source]

    def __post_init__(self) -> None:
        self.length, self.tiles = self.sources[0].length, self.sources[0].tiles

    def read(self, start: int, stop: int) -> Tensor:
        """The function of what the sources have there."""
        return self.function(*(source.read(start, stop) for source in self.sources))

    def width(self, *before: float) -> float:
        """As wide as the widest source."""
        return super().width(*(source.width() for source in self.sources))


@dataclass
class Padded(Source):
    """Rows with `sides` (left, right, above, below) around them, in a mode of F.pad."""

    source: Source
    sides: Sequence[int]
    mode: str

    def __post_init__(self) -> None:
        self.length = self.source.length + self.sides[2] + self.sides[3]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows of the padded image; those above and below it are reflected, repeated or zero."""
        left, right, above, _ = self.sides
        last = self.source.length - 1
        rows = torch.arange(start - above, stop - above)
        if self.mode == "reflect":
            rows = last - (last - rows.abs()).abs()
        inside = rows.clamp(0, last)
        first = int(inside.min())
        found = self.source.read(first, int(inside.max()) + 1)
        if len(rows) != found.shape[2] or not torch.equal(inside, first + torch.arange(len(rows))):
            found = found.index_select(2, (inside - first).to(found.device))
        if self.mode == "constant" and not torch.equal(inside, rows):
            found = found * (inside == rows).to(found)[:, None]
        return _widened(found, left, right, self.mode) if left or right else found

    def width(self, *before: float) -> float:
        """As wide as the source, or a little wider."""
        return super().width(self.source.width())


def _widened(x: Tensor, left: int, right: int, mode: str) -> Tensor:
    """F.pad of the columns; reflection leaves the memory format as it is, unlike torch's."""
    if mode != "reflect":
        return F.pad(x, (left, right, 0, 0), mode=mode)
    first, last = x[..., 1 : left + 1].flip(3), x[..., -right - 1 : -1].flip(3)
    return torch.cat([first, x, last], 3)


@dataclass
class Convolved(Source):
    """Rows of a convolution without padding of its own."""

    source: Source
    layer: nn.Conv2d

    def __post_init__(self) -> None:
        self.kernel, self.stride = self.layer.kernel_size[0], self.layer.stride[0]
        self.length = (self.source.length - self.kernel) // self.stride + 1

    def read(self, start: int, stop: int) -> Tensor:
        """The rows, from those that the kernel covers."""
        end = (stop - 1) * self.stride + self.kernel
        rows = self.source.read(start * self.stride, end)
        if isinstance(self.layer, Conv3x3) and self.layer.padding == (0, 0):
            return self.layer(rows.contiguous(memory_format=torch.channels_last))  # faster there
        return F.conv2d(rows, self.layer.weight, self.layer.bias, self.layer.stride)

    def width(self, *before: float) -> float:
        """A row takes as many rows of the source as the stride."""
        return super().width(self.source.width() * self.stride)


@dataclass
class Upsampled(Source):
    """Rows of a transposed convolution whose kernel reaches all of them."""

    source: Source
    layer: nn.ConvTranspose2d

    def __post_init__(self) -> None:
        self.kernel, self.stride = self.layer.kernel_size[0], self.layer.stride[0]
        self.padding = int(self.layer.padding[0])
        inner = (self.source.length - 1) * self.stride + self.kernel - 2 * self.padding
        self.length = inner + self.layer.output_padding[0]

    def read(self, start: int, stop: int) -> Tensor:
        """The rows, from those of the source that reach them."""
        start, stop = start + self.padding, stop + self.padding  # before the padding is cut off
        first = max(0, -((self.kernel - 1 - start) // self.stride))
        last = min(self.source.length, (stop - 1) // self.stride + 1)
        weight, bias = self.layer.weight, self.layer.bias
        across = (0, int(self.layer.padding[1])), (0, self.layer.output_padding[1])
        source = self.source.read(first, last)
        rows = F.conv_transpose2d(source, weight, bias, self.layer.stride, *across)
        return rows[:, :, start - first * self.stride : stop - first * self.stride]

    def width(self, *before: float) -> float:
        """A row takes a part of a row of the source."""
        return super().width(self.source.width() / self.stride)


class Statistics:
    """Mean and variance of each channel, joined part by part (Chan et al. 1979) in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()).double(), torch.zeros(()).double()

    def add(self, part: Tensor) -> None:
        """Join a part, (N, C, H, W)."""
        if len(part) == 1 and is_float32_last(part):
            mean, variance = mean_and_variance(part)
        else:
            variance, mean = torch.var_mean(_exact(part), (0, 2, 3), correction=0)
        variance, mean = variance.cpu().double(), mean.cpu().double()  # not every GPU has float64
        count = part.numel() // part.shape[1]
        total = self.count + count
        distance = mean - self.mean
        between = distance.square() * (self.count * count / total)
        self.squares = self.squares + variance * count + between
        self.mean = self.mean + distance * (count / total)
        self.count = total

    def normalize(self, norm: Any) -> Callable[[Tensor], Tensor]:
        """What a norm layer that looks at the whole image does, with these statistics."""
        scale = (self.squares / self.count + norm.eps).rsqrt()
        shift = -self.mean * scale
        if norm.affine:
            weight, bias = norm.weight.cpu().double(), norm.bias.cpu().double()
            scale, shift = scale * weight, shift * weight + bias
        return partial(_scale_and_shift, scale, shift)


def _scale_and_shift(scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    exact = _exact(x)
    scale, shift = (numbers.to(exact)[:, None, None] for numbers in (scale, shift))
    return torch.addcmul(shift, exact, scale).to(x.dtype)


def _exact(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Kept(Source):
    """Features that were computed, in main memory or in a file; and their statistics."""

    def __init__(self, source: Source, work: Work, counted: bool = True) -> None:
        item = source.read(0, 1)
        self.length, self.tiles, self.device = source.length, source.tiles, item.device
        self.work, self.dtype = work, item.dtype
        self.shape = self._packed(item).shape[1:]
        self.bytes = item.numel() * item.element_size()
        self.file: Any = None
        if self.length * self.bytes > IN_MEMORY:
            with self._errors():
                self.file = tempfile.TemporaryFile(dir=work.folder)
        else:
            self.memory = torch.empty(self.length, *self.shape, dtype=self.dtype)
        self.statistics = Statistics() if counted else None
        for start, stop in work.parts(source):
            self.write(start, source.read(start, stop))

    def _packed(self, part: Tensor) -> Tensor:
        """A part as it is kept, so that it is in one piece there; and the other way round."""
        return part if self.tiles else part[0].permute(1, 2, 0)

    def _errors(self) -> AbstractContextManager:
        return explain_write_errors(
            self.work.folder or tempfile.gettempdir(), "choose another --results_dir"
        )

    def write(self, start: int, part: Tensor) -> None:
        """Put a part in its place, and its numbers into the statistics."""
        if self.statistics:
            self.statistics.add(part)
        packed = self._packed(part).to("cpu")
        if self.file is None:
            self.memory[start : start + len(packed)] = packed
            return
        with self._errors():
            self.file.seek(start * self.bytes)
            self.file.write(_bytes(packed.contiguous()))

    def read(self, start: int, stop: int) -> Tensor:
        """What was written there."""
        if self.file is None:
            part = self.memory[start:stop]
        else:
            part = torch.empty(stop - start, *self.shape, dtype=self.dtype)
            self.file.seek(start * self.bytes)
            self.file.readinto(_bytes(part))
        part = part.to(self.device)
        return part if self.tiles else part.permute(2, 0, 1)[None]

    def rewrite(self, change: Callable[[Source], Source]) -> None:
        """Replace the rows by what `change` computes from them, and from one more on each side."""
        old = _Overwritten(self)
        new, self.statistics = change(old), Statistics()
        for start, stop in self.work.parts(new):
            part = new.read(start, stop)
            old.keep_last(stop)
            self.write(start, part)


def _bytes(part: Tensor) -> memoryview:
    return part.flatten().view(torch.uint8).numpy().data  # a 1x1 map may have any strides


class _Overwritten(Source):
    """Rows of what is being rewritten from the top on, as they were before."""

    def __init__(self, kept: Kept) -> None:
        self.kept, self.length, self.done = kept, kept.length, 0
        self.statistics = kept.statistics
        self.last = kept.read(0, 1)  # the old row before `done`

    def keep_last(self, done: int) -> None:
        """Keep the row that will be needed after the rows up to `done` are overwritten."""
        self.last, self.done = self.read(done - 1, done).clone(), done

    def read(self, start: int, stop: int) -> Tensor:
        """Old rows, from the last overwritten one on."""
        if start >= self.done:
            return self.kept.read(start, stop)
        below = [self.kept.read(self.done, stop)] if stop > self.done else []
        return torch.cat([self.last, *below], 2)


def normalized(source: Source, norm: nn.Module, work: Work) -> Source:
    """A source after a norm layer; one pass over it if the norm looks at the whole image."""
    if isinstance(norm, _NormBase) and not _is_fixed(norm):
        statistics = getattr(source, "statistics", None)
        if statistics is None:
            statistics = Statistics()
            for start, stop in work.parts(source):
                statistics.add(source.read(start, stop))
        return Mapped(statistics.normalize(norm), [source])
    return Mapped(norm, [source])


def _is_fixed(norm: _NormBase) -> bool:
    """Whether a norm layer has statistics of its own, and does not use those of the image."""
    return norm.track_running_stats and norm.running_mean is not None and not norm.training
