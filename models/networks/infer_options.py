"""Reads off a state dict which options built the network, to say why a checkpoint does not fit."""

from collections.abc import Mapping

import torch
from torch import Size, Tensor

from models.networks import DISCRIMINATORS, GENERATORS, define_D, define_G


def infer_options(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The options that a network of this program was built with, as far as its weights show.

    Args:
        state: a state dict.

    Returns:
        Some of netG, netD, n_layers_D, norm, dropout, ngf, ndf, input_nc, output_nc and channels
        (of a discriminator's input); nothing of a network that they would not build.
    """
    options = _read(state)
    return options if options and _shapes(_built(options)) == _shapes(state) else {}


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
    first, *_, last = convs.values()
    options: dict[str, object] = {"norm": _norm(state, list(convs)[1])}
    if any(".conv_block." in key for key in convs):
        blocks = {key.split(".")[1] for key in convs if ".conv_block." in key}
        options |= {"netG": f"resnet_{len(blocks)}blocks", "output_nc": last.shape[0]}
        options["dropout"] = any(key.endswith("conv_block.6.weight") for key in convs)
    elif next(iter(convs)).startswith("model.model."):
        options |= {"netG": f"unet_{2 ** (len(convs) // 2)}", "output_nc": last.shape[1]}
    elif next(iter(convs)).startswith("net."):
        return options | {"netD": "pixel", "ndf": first.shape[0], "channels": first.shape[1]}
    else:
        options |= {"netD": "n_layers", "n_layers_D": len(convs) - 2}
        return options | {"ndf": first.shape[0], "channels": first.shape[1]}
    return options | {"ngf": first.shape[0], "input_nc": first.shape[1]}


def _built(options: dict) -> Mapping[str, Tensor]:
    """The state dict, without values, of the network of these options; empty if there is none."""
    row = {"dropout": False, "n_layers_D": 3, **options}
    with torch.device("meta"):
        if row.get("netG") in GENERATORS:
            sizes = row["input_nc"], row["output_nc"], row["ngf"]
            return define_G(*sizes, row["netG"], row["norm"], row["dropout"]).state_dict()
        if row.get("netD") in DISCRIMINATORS:
            layers = row["netD"], row["n_layers_D"], row["norm"]
            return define_D(row["channels"], row["ndf"], *layers).state_dict()
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
