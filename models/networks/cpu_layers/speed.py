"""What makes networks and optimizers faster without changing what they compute."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.networks.cpu_layers.memory_format import ChoosesMemoryFormat
from models.networks.norms import BatchNorm2d

FUSED_ON = ("cpu", "cuda")


def choose_layouts(nets: Iterable[nn.Module], device: torch.device, precision: str) -> None:
    """Let networks of this program compute in channels_last where that is faster, and harmless.

    Not in float32 on a CPU with a batch norm that is not ours: there torch adds up a channel in one
    running sum, whose error at 256x256 pixels is 80 times that in the contiguous layout.

    Args:
        nets: somebody's own among them stay as they are.
        device: where they are.
        precision: a name in `util.precision.PRECISIONS`.
    """
    half = precision in ("bf16", "fp16")
    for net in nets:
        exact = device.type == "cpu" and all(map(_is_exact, net.modules()))
        if isinstance(net, ChoosesMemoryFormat):
            net.computes_in_channels_last = exact or (half and device.type in ("cpu", "cuda"))


def _is_exact(layer: nn.Module) -> bool:
    return isinstance(layer, BatchNorm2d) or not isinstance(layer, _BatchNorm)


def fuse(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Let Adam and AdamW update all weights in one pass over them, where nothing else was asked."""
    for optimizer in optimizers:
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            continue
        for group in optimizer.param_groups:
            asked = any(group[k] for k in ("fused", "foreach", "capturable", "differentiable"))
            if not asked and all(_fusible(parameter) for parameter in group["params"]):
                group["fused"] = True
        if all(group["fused"] for group in optimizer.param_groups):
            optimizer._step_supports_amp_scaling = True  # as its constructor does; no host waits


def _fusible(parameter: nn.Parameter) -> bool:
    return parameter.device.type in FUSED_ON and parameter.is_floating_point()
