"""Reads off a state dict which options built the network, to say why a checkpoint does not fit."""

from collections.abc import Iterator, Mapping
from itertools import product

import torch
from torch import Size, Tensor, nn

from models.networks import DISCRIMINATORS, GENERATORS, get_norm_layer


def infer_options(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The options that the network of this state dict was built with, as far as its weights show.

    Some of netG, netD, n_layers_D, norm, dropout, ngf, ndf, input_nc, output_nc and channels (of a
    discriminator's input); none of a network that they would not build.
    """
    expected = _shapes(state)
    with torch.device("meta"):  # shapes without values
        fits = (o for o, net in _candidates(state) if _shapes(net.state_dict()) == expected)
        return next(fits, {})


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The options in which two state dicts differ, as the end of an error message."""
    here, there = infer_options(expected), infer_options(found)
    same_kind = {"netG", "netD"} & here.keys() & there.keys()
    flags = [_flag(key, there[key]) for key in there if there[key] != here.get(key)]
    if not same_kind or not flags:
        return "; it is of another architecture, choose the one it was trained with"
    return f"; the file was trained with {' '.join(flags)}, so try that"


def _candidates(state: Mapping[str, Tensor]) -> Iterator[tuple[dict, nn.Module]]:
    """Networks of all kinds, as wide as this one and with its norm; the options that build them."""
    weights = {key: w.shape for key, w in state.items() if key.endswith(".weight")}
    convs = {key: shape for key, shape in weights.items() if len(shape) == 4}
    if len(convs) < 3:
        return
    (_, (width, channels, *_)), (second, _), *_, (_, last) = convs.items()
    norm = "instance" if second.replace(".weight", ".bias") in state else "none"
    if len(convs) < len(weights):
        norm = "batch"
    norm_layer = get_norm_layer(norm)
    for extra in ({"netD": "pixel"}, {"netD": "n_layers", "n_layers_D": len(convs) - 2}):
        D = DISCRIMINATORS[str(extra["netD"])].build(channels, width, len(convs) - 2, norm_layer)
        yield {"norm": norm, "ndf": width, "channels": channels} | extra, D
    for (netG, row), dropout in product(GENERATORS.items(), (False, True)):
        unet = netG.startswith("unet")  # its dropout has no place in the keys
        nc = {"input_nc": channels, "output_nc": last[1 if unet else 0], "ngf": width}
        G = row.build(**nc, norm_layer=norm_layer, use_dropout=dropout)
        yield {"netG": netG, "norm": norm} | ({} if unet else {"dropout": dropout}) | nc, G


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    """Shapes of what is trained; running statistics come and go with the version of torch."""
    return {k: w.shape for k, w in state.items() if k.endswith((".weight", ".bias"))}


def _flag(key: str, value: object) -> str:
    if key == "dropout":
        return "--dropout" if value else "--no_dropout"
    return f"{value} input channels" if key == "channels" else f"--{key} {value}"
