"""The public face for building networks, losses and LR schedulers, also in a notebook.

For example define_G(3, 3, ngf=64, netG="resnet_9blocks", norm="instance").
"""

# ruff: noqa: F401, I001

from argparse import Namespace
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import Identity

from models.networks.discriminators import DISCRIMINATORS, NLayerDiscriminator, PixelDiscriminator
from models.networks.generators import (
    GENERATORS, ResnetBlock, ResnetGenerator, UnetGenerator, UnetSkipConnectionBlock,
)  # fmt: skip
from models.networks.init import INITS, init_net, init_weights
from models.networks.losses import GAN_MODES, GANLoss, cal_gradient_penalty
from models.networks.norms import (
    NORM_ALIASES, NORMS, canonical_norm, get_norm_layer, normalizes_per_sample, same_weights,
)  # fmt: skip
from models.networks.schedulers import LR_POLICIES, get_scheduler
from models.networks.sizes import check_image_size, size_problem
from util.choices import choose


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
    """A generator on the CPU with random weights, (N, input_nc, H, W) to (N, output_nc, H, W).

    Images are in [-1, 1]. `ngf` is the number of channels of the first layer; `use_dropout` drops
    half of the features in the inner blocks; `netG`, `norm` and `init_type` are names in
    `GENERATORS`, `NORMS` (or `NORM_ALIASES`) and `INITS`; `init_gain` is that of `init_weights`.
    An unknown name raises ValueError. `gpu_ids` is accepted for old callers and unused.
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
    """A discriminator on the CPU with random weights, (N, input_nc, H, W) to logits (N, 1, h, w).

    There is a logit for each patch of an image. `netD` is a name in `DISCRIMINATORS`; `n_layers_D`,
    1 or more, is the number of halvings of the size, for the netD "n_layers" alone. The other
    arguments and errors are like those of `define_G`.
    """
    row = choose(DISCRIMINATORS, netD, "netD")
    net = row.build(input_nc, ndf, n_layers_D, get_norm_layer(norm))
    return init_net(net, init_type, init_gain)


def build_G(opt: Namespace, input_nc: int, output_nc: int) -> nn.Module:
    """`define_G` as --netG, --ngf, --norm, --no_dropout, --init_type and --init_gain say."""
    options = (opt.ngf, opt.netG, opt.norm, not opt.no_dropout, opt.init_type, opt.init_gain)
    return define_G(input_nc, output_nc, *options)


def build_D(opt: Namespace, input_nc: int) -> nn.Module:
    """`define_D` as --netD, --ndf, --n_layers_D, --norm, --init_type and --init_gain say."""
    options = (opt.ndf, opt.netD, opt.n_layers_D, opt.norm, opt.init_type, opt.init_gain)
    return define_D(input_nc, *options)


def gradient_penalty(opt: Namespace, netD: nn.Module, real: Tensor, fake: Tensor) -> Tensor | float:
    """`cal_gradient_penalty` with --lambda_gp; 0.0 for a --gan_mode other than wgangp."""
    weight = opt.lambda_gp if opt.gan_mode == "wgangp" else 0.0
    return cal_gradient_penalty(netD, real, fake, real.device, lambda_gp=weight)[0]
