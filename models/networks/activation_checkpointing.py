"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): memory for a second forward pass.

Of each stage of a generator only the input is kept, and the backward pass computes the rest again,
with the same dropout masks and without counting the images twice in a batch norm.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from models.networks.generators import ResnetBlock, ResnetGenerator, UnetSkipConnectionBlock


def checkpoint_activations(net: nn.Module) -> None:
    """Let this program's generators in `net` recompute; only the classes of containers change."""
    for module in net.modules():
        if type(module) is UnetSkipConnectionBlock:
            module.__class__ = _RecomputingBlock
        elif isinstance(module, ResnetGenerator) and type(module.model) is nn.Sequential:
            module.model.__class__ = _RecomputingSequential


class _RecomputingSequential(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return _run(self, input)


class _RecomputingBlock(UnetSkipConnectionBlock):
    def forward(self, x: Tensor) -> Tensor:
        if self.outermost:
            return _run(self.model, x)
        skip = self.model[0](x)
        return torch.cat([skip, _run(self.model[1:], skip)], dim=1)


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for stage in _stages(layers):
        again = torch.is_grad_enabled() and not isinstance(stage[0], UnetSkipConnectionBlock)
        x = _recomputed(stage, x) if again else stage(x)
    return x


def _recomputed(stage: nn.Module, x: Tensor) -> Tensor:
    contexts = nullcontext(), keep_running_stats(stage)  # of the first and second forward pass
    return checkpoint(stage, x, use_reentrant=False, context_fn=lambda: contexts)


def _stages(layers: Iterable[nn.Module]) -> list[nn.Sequential]:
    """Groups of about one convolution with its norm and activation; blocks by themselves."""
    stages: list[list[nn.Module]] = [[]]
    for layer in layers:
        block = isinstance(layer, ResnetBlock | UnetSkipConnectionBlock)
        if block:
            stages.append([])
        stages[-1].append(layer)
        if block or (isinstance(layer, nn.ReLU) and len(stages[-1]) > 1):
            stages.append([])
    return [nn.Sequential(*stage) for stage in stages if stage]


@contextmanager
def keep_running_stats(net: nn.Module) -> Iterator[None]:
    """Within this block batch norms compute as always, but keep their running statistics."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    try:
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
