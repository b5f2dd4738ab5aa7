"""The norm layers, from one table; each is made by `get_norm_layer(name)(number of channels)`.

Which one a generator gets: --norm, by default that of the model (options/, a model's
`modify_commandline_options`); on several ranks batch becomes syncbatch (util/distributed/ddp.py);
testing takes what training saved. `build_G` hands it to `define_G`. On a CPU
`cpu_layers` swaps faster layers in afterwards.
"""

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from util.choices import choose

MakeNorm = Callable[[int], nn.Module]  # number of channels -> module

NORMS: dict[str, MakeNorm] = {
    "instance": nn.InstanceNorm2d,  # arXiv 1607.08022; each image by itself, in testing too
    "batch": nn.BatchNorm2d,  # arXiv 1502.03167
    "syncbatch": nn.BatchNorm2d,  # util/distributed makes it a SyncBatchNorm on several ranks
    "none": nn.Identity,  # takes a layer's place, so that state-dict indices stay as they are
}
NORM_ALIASES = {"sync_batch": "syncbatch", "sync_instance": "instance"}


def canonical_norm(norm_type: str) -> str:
    """The name in `NORMS` that `norm_type`, a name or an alias, stands for."""
    return NORM_ALIASES.get(norm_type, norm_type)


def get_norm_layer(norm_type: str = "instance") -> MakeNorm:
    """The constructor of a norm layer, called with the channels; ValueError if there is none."""
    return choose(NORMS, canonical_norm(norm_type), "norm")


def same_weights(norm_a: str, norm_b: str) -> bool:
    """Whether weights trained with one norm, a name or an alias, are weights for the other."""
    return get_norm_layer(norm_a) is get_norm_layer(norm_b)


def normalizes_per_sample(net: nn.Module) -> bool:
    """Whether, dropout aside, `net` surely treats an image alike in any batch.

    Not with batch norm, running statistics, or modules that are neither torch's nor ours.
    """
    for module in net.modules():
        known = type(module).__module__.startswith(("torch.nn.", "models.networks."))
        statistics = isinstance(module, _NormBase) and module.track_running_stats
        if not known or statistics or isinstance(module, _BatchNorm):
            return False
    return True


def conv_has_bias(norm_layer: MakeNorm) -> bool:
    """Whether a convolution before `norm_layer`, a class or a partial of one, has a bias.

    Only before instance norm: it cancels the bias, but released checkpoints carry it.
    """
    layer = norm_layer.func if isinstance(norm_layer, partial) else norm_layer
    return isinstance(layer, type) and issubclass(layer, nn.InstanceNorm2d)
