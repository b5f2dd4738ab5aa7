"""The public face for building networks, losses and LR schedulers.

The functions take what they need by name, so they can be called from a notebook:

    generator = define_G(3, 3, ngf=64, netG="resnet_9blocks", norm="instance")
"""

from collections.abc import Sequence

from torch import nn
from torch.nn import Identity

from models.networks.discriminators import DISCRIMINATORS, NLayerDiscriminator, PixelDiscriminator
from models.networks.generators import (
    GENERATORS,
    ResnetBlock,
    ResnetGenerator,
    UnetGenerator,
    UnetSkipConnectionBlock,
)
from models.networks.init import INITS, init_net, init_weights
from models.networks.losses import GAN_MODES, GANLoss, cal_gradient_penalty
from models.networks.norms import (
    NORM_ALIASES,
    NORMS,
    canonical_norm,
    get_norm_layer,
    normalizes_per_sample,
    same_weights,
)
from models.networks.schedulers import LR_POLICIES, get_scheduler
from models.networks.sizes import check_image_size, size_problem
from util.choices import choose

__all__ = [
    "DISCRIMINATORS",
    "GAN_MODES",
    "GENERATORS",
    "INITS",
    "LR_POLICIES",
    "NORMS",
    "NORM_ALIASES",
    "GANLoss",
    "Identity",
    "NLayerDiscriminator",
    "PixelDiscriminator",
    "ResnetBlock",
    "ResnetGenerator",
    "UnetGenerator",
    "UnetSkipConnectionBlock",
    "cal_gradient_penalty",
    "canonical_norm",
    "check_image_size",
    "define_D",
    "define_G",
    "get_norm_layer",
    "get_scheduler",
    "init_net",
    "init_weights",
    "normalizes_per_sample",
    "same_weights",
    "size_problem",
]


def define_G(
    input_nc: int,
    output_nc: int,
    ngf: int,
    netG: str,
    norm: str = "batch",
    use_dropout: bool = False,
    init_type: str = "normal",
    init_gain: float = 0.02,
    gpu_ids: Sequence[int] = (),
) -> nn.Module:
    """Build a generator on the CPU, with random weights.

    Args:
        input_nc: channels of the input.
        output_nc: channels of the output.
        ngf: channels of the first layer.
        netG: a name in `GENERATORS`.
        norm: a name in `NORMS` or an alias in `NORM_ALIASES`.
        use_dropout: dropout of 0.5 in the inner blocks.
        init_type: a name in `INITS`.
        init_gain: spread of the initial weights, see `init_weights`.
        gpu_ids: accepted for old callers, unused.

    Returns:
        A network from (N, input_nc, H, W) to (N, output_nc, H, W), both in [-1, 1].

    Raises:
        ValueError: no such netG, norm or init_type.
    """
    row = choose(GENERATORS, netG, "netG")
    norm_layer = get_norm_layer(norm)
    net = row.build(input_nc, output_nc, ngf=ngf, norm_layer=norm_layer, use_dropout=use_dropout)
    return init_net(net, init_type, init_gain)


def define_D(
    input_nc: int,
    ndf: int,
    netD: str,
    n_layers_D: int = 3,
    norm: str = "batch",
    init_type: str = "normal",
    init_gain: float = 0.02,
    gpu_ids: Sequence[int] = (),
) -> nn.Module:
    """Build a discriminator on the CPU, with random weights.

    Args:
        input_nc: channels of the input.
        ndf: channels of the first layer.
        netD: a name in `DISCRIMINATORS`.
        n_layers_D: halvings of the size, 1 or more; used by netD "n_layers" alone.
        norm: a name in `NORMS` or an alias in `NORM_ALIASES`.
        init_type: a name in `INITS`.
        init_gain: spread of the initial weights, see `init_weights`.
        gpu_ids: accepted for old callers, unused.

    Returns:
        A network from (N, input_nc, H, W) to logits (N, 1, h, w), one per patch.

    Raises:
        ValueError: no such netD, norm or init_type, or n_layers_D is less than 1.
    """
    row = choose(DISCRIMINATORS, netD, "netD")
    net = row.build(input_nc, ndf, n_layers_D, get_norm_layer(norm))
    return init_net(net, init_type, init_gain)
