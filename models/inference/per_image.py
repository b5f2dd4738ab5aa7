"""Networks whose answer to an image depends on its batch, made to treat each image by itself.

pix2pix tests with batch norm and dropout as in training, image by image. The statistics of a batch
of one are those of the image, and dropout draws its numbers image after image; both can be had for
larger batches too, so that a batch changes no picture (up to the rounding of float).
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from models.networks.cpu_layers.norms import Normalised, is_exact_last

# Who computes each image by itself: torch's layers, but for those below, and the parts of ours.
OURS = ("generators", "norms", "cpu_layers.")
KNOWN = ("torch.nn.modules.", *(f"models.networks.{name}" for name in OURS), __name__)
RANDOM = (nn.RReLU, nn.FractionalMaxPool2d)
MANY_PIXELS = 1024  # from here on group norm is the faster one


class PerImageNorm(nn.Module):
    """Instance norm, or batch norm in training mode as a batch of one sees it."""

    def __init__(self, norm: _BatchNorm | nn.InstanceNorm2d) -> None:
        """Take over weight, bias and epsilon of `norm`."""
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, with the statistics of each image."""
        if is_exact_last(x):
            return Normalised.apply(x, self.weight, self.bias, self.eps)[0]
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class ChannelsLastNorm(PerImageNorm):
    """The same for the CPU and channels_last, which F.instance_norm leaves for a slow way round.

    Its sums of squares are as exact as bfloat16 and float16 are, not as float32 is.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape, still channels_last."""
        if x.device.type != "cpu":
            return super().forward(x)
        if x.shape[2] * x.shape[3] >= MANY_PIXELS:
            return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        images = [self._one(x[i : i + 1]) for i in range(len(x))]
        return torch.cat(images) if len(images) > 1 else images[0]

    def _one(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class Draw(NamedTuple):
    """One use of dropout on one image: what decides which random numbers are drawn."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    p: float

    def mask(self) -> Tensor:
        """Factors of 0 and 1 / (1 - p), drawn as dropout would draw them for such an image."""
        ones = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return F.dropout(ones.fill_(1), self.p, training=True)


class DropoutPlan:
    """Draws the dropout of a batch in the order in which its images alone would.

    The first image of each shape goes alone and shows what is drawn on the way.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._draws: dict[Hashable, list[Draw]] = {}
        self._noted: list[Draw] = []
        self._masks: deque[Tensor] | None = None

    def __contains__(self, shapes: Hashable) -> bool:
        """Whether an image of these shapes has gone alone."""
        return shapes in self._draws

    def start(self, shapes: Hashable, count: int) -> None:
        """Get ready for a batch of `count` images; only one of shapes not seen before."""
        if shapes not in self._draws or count == 1:
            self._noted, self._masks = [], None
            self._draws[shapes] = self._noted
            return
        draws = self._draws[shapes]
        images = [[draw.mask() for draw in draws] for _ in range(count)]
        self._masks = deque(torch.cat(masks) for masks in zip(*images, strict=True))

    def apply(self, x: Tensor, p: float) -> Tensor:
        """Dropout of (N, ...)."""
        if self._masks is not None:
            return x * self._masks.popleft()
        self._noted.append(Draw(x.shape, x.stride(), x.dtype, x.device, p))
        return F.dropout(x, p, training=True)


class PlannedDropout(nn.Module):
    """Dropout in training mode whose masks are planned."""

    def __init__(self, dropout: nn.Dropout, plan: DropoutPlan) -> None:
        """Take over the probability of `dropout`."""
        super().__init__()
        self.p, self.plan = dropout.p, plan

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to the same shape."""
        return self.plan.apply(x, self.p)


def unsupported_modules(nets: Iterable[nn.Module]) -> list[str]:
    """The classes in these networks of which nothing is known, or nothing good, by name."""
    return sorted({type(m).__name__ for net in nets for m in net.modules() if not _known(m)})


def _known(module: nn.Module) -> bool:
    if _drops(module):
        return type(module) is nn.Dropout
    if _mixes_images(module):
        return isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm)
    random = isinstance(module, RANDOM) and module.training
    return type(module).__module__.startswith(KNOWN) and not random


def _drops(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd) and module.training and module.p > 0


def _mixes_images(module: nn.Module) -> bool:
    statistics = isinstance(module, _BatchNorm)
    return statistics and (module.training or module.running_mean is None)


def drop_out(nets: Iterable[nn.Module]) -> bool:
    """Whether any of these networks has a dropout that is on."""
    return any(_drops(module) for net in nets for module in net.modules())


def separate(nets: Iterable[nn.Module]) -> None:
    """Give networks without `unsupported_modules` the statistics of each image, in place."""
    for parent, name, child in _children(nets):
        if _mixes_images(child):
            setattr(parent, name, PerImageNorm(child))


def plan_dropout(nets: Iterable[nn.Module]) -> DropoutPlan | None:
    """Plan the dropout of networks without `unsupported_modules`; None where there is none."""
    plan, planned = DropoutPlan(), False
    for parent, name, child in _children(nets):
        if _drops(child):
            setattr(parent, name, PlannedDropout(child, plan))
            planned = True
    return plan if planned else None


def use_channels_last_norms(net: nn.Module) -> None:
    """Replace every norm with the statistics of each image by the one for half precision."""
    for parent, name, child in _children([net]):
        plain = isinstance(child, nn.InstanceNorm2d) and not child.track_running_stats
        if plain or isinstance(child, PerImageNorm):
            setattr(parent, name, ChannelsLastNorm(child))


def _children(nets: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in [module for net in nets for module in net.modules()]:
        for name, child in list(parent.named_children()):
            yield parent, name, child
