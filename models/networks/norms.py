"""The norm layers, from one table."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from models.networks.cpu_layers.instance_norm import instance_norm
from models.networks.cpu_layers.normalised import Normalised, is_exact_last
from util.choices import choose

MANY = 1024  # pixels of a channel; the sum of fewer is exact anyway
NormLayer = Callable[[int], nn.Module]  # number of channels -> module


class InstanceNorm2d(nn.InstanceNorm2d):
    """nn.InstanceNorm2d with right gradients in every memory layout, and faster."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each picture of (N, C, H, W); the layout is kept."""
        if input.dim() != 4 or self.affine or self.track_running_stats:
            return super().forward(input.contiguous())
        return instance_norm(input, self.eps)


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, as exact in channels_last on a CPU as in the contiguous layout."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of (N, C, H, W) over the batch; the layout is kept."""
        pixels = input.numel() // input.shape[1]
        if not self.training or not self.affine or pixels < MANY or not is_exact_last(input):
            return super().forward(input)
        # the batch in channels_last is also one picture with all rows below each other
        rows = input.permute(0, 2, 3, 1).flatten(0, 1).unsqueeze(0).permute(0, 3, 1, 2)
        y, mean, variance = Normalised.apply(rows, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            share = self.momentum
            if share is None:  # a plain average over all batches
                share = 1 / self.num_batches_tracked.item()
            self.running_mean.lerp_(mean.flatten(), share)
            self.running_var.lerp_(variance.flatten() * (pixels / (pixels - 1)), share)
        y = y.permute(0, 2, 3, 1).unflatten(1, (len(input), -1)).squeeze(0)
        return y.permute(0, 3, 1, 2)


NORMS: dict[str, NormLayer] = {
    # arXiv 1607.08022; statistics of each picture by itself, in training and in testing alike
    "instance": partial(InstanceNorm2d, affine=False, track_running_stats=False),
    # arXiv 1502.03167
    "batch": partial(BatchNorm2d, affine=True, track_running_stats=True),
    # the same layer: util/distributed makes it a SyncBatchNorm where several ranks run
    "syncbatch": partial(BatchNorm2d, affine=True, track_running_stats=True),
    "none": nn.Identity,  # takes a layer's place, so that state-dict indices stay as they are
}

NORM_ALIASES = {"sync_batch": "syncbatch", "sync_instance": "instance"}
PER_SAMPLE_NORMS = (
    "instance",
    "none",
)  # a batch of several calls' pictures gives what each call gives


def canonical_norm(norm_type: str) -> str:
    """The name in `NORMS` that `norm_type`, a name or an alias, stands for."""
    return NORM_ALIASES.get(norm_type, norm_type)


def same_weights(norm_a: str, norm_b: str) -> bool:
    """Whether networks with the one norm layer and with the other hold the same weights."""
    return norm_a == norm_b or {norm_a, norm_b} == {"batch", "syncbatch"}


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
