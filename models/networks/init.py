"""Random initial weights."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # BatchNorm1d to 3d and SyncBatchNorm
from torch.nn.modules.conv import _ConvNd  # all convolutions, transposed ones too

from util.choices import choose

INITS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "normal": lambda weight, gain: nn.init.normal_(weight, mean=0.0, std=gain),
    "xavier": lambda weight, gain: nn.init.xavier_normal_(weight, gain=gain),  # Glorot 2010
    "kaiming": lambda weight, gain: nn.init.kaiming_normal_(weight),  # arXiv 1502.01852; no gain
    "orthogonal": lambda weight, gain: nn.init.orthogonal_(weight, gain=gain),  # arXiv 1312.6120
}


def init_weights(net: nn.Module, init_type: str = "normal", init_gain: float = 0.02) -> None:
    """Draw all weights of any network anew, in place, from torch's global generator.

    Convolutions and linear layers follow `init_type`, a name in `INITS` (else ValueError);
    `init_gain` is the standard deviation of "normal" and a factor in "xavier" and "orthogonal".
    Batch norms get weights from N(1, init_gain) (DCGAN, arXiv 1511.06434). All biases are zero.
    """
    draw = choose(INITS, init_type, "init_type")
    for layer in net.modules():
        if isinstance(layer, _ConvNd | nn.Linear):
            draw(layer.weight, init_gain)
        elif isinstance(layer, _BatchNorm) and layer.affine:
            nn.init.normal_(layer.weight, mean=1.0, std=init_gain)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_net(
    net: nn.Module, init_type: str = "normal", init_gain: float = 0.02, gpu_ids: Sequence[int] = ()
) -> nn.Module:
    """`init_weights`, returning `net`; `gpu_ids` is accepted for old callers and unused."""
    init_weights(net, init_type, init_gain)
    return net
