"""Reads off a state dict which options built the network, to say why a checkpoint does not fit."""

from collections.abc import Mapping

import torch
from torch import Size, Tensor

from models.networks import DISCRIMINATORS, GENERATORS, define_D, define_G


def infer_options(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The options that the network of this state dict was built with, as far as its weights show.

    Some of netG, netD, n_layers_D, norm, dropout, ngf, ndf, input_nc, output_nc and channels (of a
    discriminator's input); none of a network that they would not build.
    """
    options = _read(state)
    return options if _shapes(_built(options)) == _shapes(state) else {}


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The options in which two state dicts differ, as the end of an error message."""
    here, there = infer_options(expected), infer_options(found)
    same_kind = {"netG", "netD"} & here.keys() & there.keys()
    flags = [_flag(key, there[key]) for key in there if there[key] != here.get(key)]
    if not same_kind or not flags:
        return "; it is of another architecture, choose the one it was trained with"
    return f"; the file was trained with {' '.join(flags)}, so try that"


def _read(state: Mapping[str, Tensor]) -> dict[str, object]:
    """What the weights look like; of a network that is not ours, this means nothing."""
    convs = {key: w for key, w in state.items() if key.endswith(".weight") and w.dim() == 4}
    if len(convs) < 3:
        return {}
    (name, first), (second, _), *_, (_, last) = convs.items()
    norm: dict[str, object] = {"norm": _norm(state, second)}
    of_G: dict[str, object] = {"ngf": first.shape[0], "input_nc": first.shape[1]}
    of_D: dict[str, object] = {"ndf": first.shape[0], "channels": first.shape[1]}
    blocks = {key.split(".")[1] for key in convs if ".conv_block." in key}
    if blocks:
        dropout = any(key.endswith("conv_block.6.weight") for key in convs)
        resnet = {"netG": f"resnet_{len(blocks)}blocks", "output_nc": last.shape[0]}
        return norm | resnet | {"dropout": dropout} | of_G
    if name.startswith("model.model."):
        unet = {"netG": f"unet_{2 ** (len(convs) // 2)}", "output_nc": last.shape[1]}
        return norm | unet | of_G
    if name.startswith("net."):
        return norm | {"netD": "pixel"} | of_D
    return norm | {"netD": "n_layers", "n_layers_D": len(convs) - 2} | of_D


def _built(options: dict) -> Mapping[str, Tensor]:
    """The state dict, without values, of the network of these options; empty if there is none."""
    row = {"dropout": False, "n_layers_D": 3, **options}
    with torch.device("meta"):
        if row.get("netG") in GENERATORS:
            keys = ["input_nc", "output_nc", "ngf", "netG", "norm", "dropout"]
            return define_G(*(row[key] for key in keys)).state_dict()
        if row.get("netD") in DISCRIMINATORS:
            keys = ["channels", "ndf", "netD", "n_layers_D", "norm"]
            return define_D(*(row[key] for key in keys)).state_dict()
    return {}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    """Shapes of what is trained; running statistics come and go with the version of torch."""
    return {k: w.shape for k, w in state.items() if k.endswith((".weight", ".bias"))}


def _norm(state: Mapping[str, Tensor], second_conv: str) -> str:
    """The second convolution stands before a norm layer, and batch norm cancels its bias."""
    running = [key for key in state if key.endswith(".running_mean")]
    if any(key.replace("running_mean", "weight") in state for key in running):
        return "batch"
    return "instance" if second_conv.replace(".weight", ".bias") in state else "none"


def _flag(key: str, value: object) -> str:
    if key == "dropout":
        return "--dropout" if value else "--no_dropout"
    return f"{value} input channels" if key == "channels" else f"--{key} {value}"
