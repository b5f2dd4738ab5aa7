"""models/networks/infer_options.py: what a state dict says about the options."""

import itertools

import pytest
import torch
from torch import nn

from models import networks
from models.networks.infer_options import differences, infer_options

NEUTRAL = "; it is of another architecture, choose the one it was trained with"


def generator(netG="resnet_6blocks", norm="instance", dropout=False, nc=(3, 3), ngf=4):
    return networks.define_G(*nc, ngf, netG, norm, dropout).state_dict()


def convolutions(count, nc=4):
    """A network of somebody's own, in the shape that most have: self.model, a Sequential."""
    layers = itertools.chain.from_iterable((nn.Conv2d(nc, nc, 3), nn.ReLU()) for _ in range(count))
    return nn.Sequential(*layers)


def named(**parts):
    return nn.ModuleDict(parts).state_dict()


FOREIGN = {
    "convolutions in self.model": named(model=convolutions(5)),
    "convolutions in self.net": named(net=convolutions(3)),
    "convolutions elsewhere": named(encoder=convolutions(4), decoder=convolutions(2)),
    "blocks of another number": networks.ResnetGenerator(3, 3, 4, n_blocks=3).state_dict(),
    "a smaller U-Net": networks.UnetGenerator(3, 3, 6, ngf=4).state_dict(),
    "ours and more": generator() | {"extra.weight": torch.zeros(2)},
    "ours with a wider layer": generator() | {"model.4.weight": torch.zeros(9, 4, 3, 3)},
    "linear layers": named(model=nn.Linear(2, 2)),
    "nothing": {},
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_of_a_network_that_is_not_ours_nothing_is_said(foreign):
    ours = generator("unet_128")
    assert infer_options(foreign) == {}
    assert differences(foreign, ours) == differences(ours, foreign) == NEUTRAL
    assert differences(foreign, named(model=convolutions(5, nc=6))) == NEUTRAL


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("netG", networks.GENERATORS)
def test_the_options_of_a_generator_are_read_off(netG, norm):
    expected = dict(netG=netG, norm=norm, ngf=2, input_nc=1, output_nc=2)
    for dropout in (False, True) if netG.startswith("resnet") else (False,):
        found = infer_options(generator(netG, norm, dropout, (1, 2), 2))
        assert found == expected | ({"dropout": dropout} if netG.startswith("resnet") else {})


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_the_options_of_a_discriminator_are_read_off(norm):
    for layers in (1, 2, 5):
        state = networks.define_D(6, 2, "n_layers", layers, norm).state_dict()
        expected = dict(netD="n_layers", n_layers_D=layers, norm=norm, ndf=2, channels=6)
        assert infer_options(state) == expected
    state = networks.define_D(6, 2, "pixel", norm=norm).state_dict()
    assert infer_options(state) == dict(netD="pixel", norm=norm, ndf=2, channels=6)


def test_weights_from_before_num_batches_tracked_are_described():
    state = generator(norm="batch")
    old = {key: w for key, w in state.items() if not key.endswith("num_batches_tracked")}
    assert len(old) < len(state) and infer_options(old)["norm"] == "batch"


def test_a_discriminator_is_not_compared_with_a_generator():
    other = networks.define_D(3, 4, "basic").state_dict()
    assert differences(generator(), other) == differences(other, generator()) == NEUTRAL


def test_describing_leaves_the_random_numbers_alone():
    state = generator()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert infer_options(state) and torch.rand(1) == expected
