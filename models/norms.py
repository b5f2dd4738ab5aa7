"""The norm layers, from one table."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from models.instance_norm import instance_norm
from util.choices import choose

NormLayer = Callable[[int], nn.Module]  # number of channels -> module


class InstanceNorm2d(nn.InstanceNorm2d):
    """nn.InstanceNorm2d with right gradients in every memory layout, and faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each picture of (N, C, H, W); the layout is kept."""
        if input.dim() != 4 or self.affine or self.track_running_stats:
            return super().forward(input.contiguous())
        return instance_norm(input, self.eps)


NORMS: dict[str, NormLayer] = {
    # arXiv 1607.08022; statistics of each picture by itself, in training and in testing alike
    "instance": partial(InstanceNorm2d, affine=False, track_running_stats=False),
    # arXiv 1502.03167
    "batch": partial(nn.BatchNorm2d, affine=True, track_running_stats=True),
    # the same layer: util/distributed.py makes it a SyncBatchNorm where several ranks run
    "syncbatch": partial(nn.BatchNorm2d, affine=True, track_running_stats=True),
    "none": nn.Identity,  # takes a layer's place, so that state-dict indices stay as they are
}

NORM_ALIASES = {"sync_batch": "syncbatch", "sync_instance": "instance"}
PER_PICTURE = ("instance", "none")  # a batch of several calls' pictures gives what each call gives


def canonical_norm(norm_type: str) -> str:
    """The name in `NORMS` that `norm_type`, a name or an alias, stands for."""
    return NORM_ALIASES.get(norm_type, norm_type)


def get_norm_layer(norm_type: str = "instance") -> NormLayer:
    """A function that makes the norm layer for a number of channels.

    Args:
        norm_type: a name in `NORMS` or an alias in `NORM_ALIASES`.

    Raises:
        ValueError: no such norm.
    """
    return choose(NORMS, canonical_norm(norm_type), "norm")


def conv_has_bias(norm_layer: NormLayer) -> bool:
    """Whether a convolution followed by `norm_layer` (a class or a partial of one) has a bias.

    Only before InstanceNorm2d: its mean subtraction cancels the bias, but released checkpoints
    carry it. Before the identity of norm "none" they carry none.
    """
    layer = norm_layer.func if isinstance(norm_layer, partial) else norm_layer
    return isinstance(layer, type) and issubclass(layer, nn.InstanceNorm2d)
