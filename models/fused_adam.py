"""Fused Adam: one pass over all weights, with the same results."""

from collections.abc import Iterable

import torch
from torch import nn


def fuse(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Let Adam and AdamW run fused on CPU and CUDA, in place, where nothing else was asked for."""
    for optimizer in optimizers:
        if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            continue
        for group in optimizer.param_groups:
            asked = any(group[k] for k in ("fused", "foreach", "capturable", "differentiable"))
            if not asked and all(_fusible(parameter) for parameter in group["params"]):
                group["fused"] = True
        if all(group["fused"] for group in optimizer.param_groups):
            # as its constructor does, so that loss scaling waits for no device
            optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]


def _fusible(parameter: nn.Parameter) -> bool:
    return parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point()
