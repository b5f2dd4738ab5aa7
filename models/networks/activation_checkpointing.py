"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): memory for a second forward pass.

Of a stage of a generator only the input is kept, and the backward pass computes the rest again.
Dropout draws the same masks then, and batch norm does not count the images twice.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from models.networks.generators import ResnetBlock, ResnetGenerator, UnetSkipConnectionBlock


def checkpoint_activations(net: nn.Module) -> None:
    """Let the generators of this program that are in `net` recompute; others stay as they are.

    Only the classes of containers change: parameters, hooks and state-dict keys stay.
    """
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
        activate, *layers = self.model
        x = activate(x)
        return torch.cat([x, _run(layers, x)], dim=1)


def _run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    for stage in _stages(layers):
        if torch.is_grad_enabled() and not isinstance(stage[0], UnetSkipConnectionBlock):
            x = checkpoint(stage, x, use_reentrant=False, context_fn=partial(_contexts, stage))
        else:
            x = stage(x)
    return x


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


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For the forward pass, and for doing it again."""
    return nullcontext(), statistics_left_alone(stage)


@contextmanager
def statistics_left_alone(net: nn.Module) -> Iterator[None]:
    """Within this block batch norm does not change its running statistics in training mode.

    It still computes as always, so that a second pass keeps the same tensors as the first.
    """
    norms = [
        (module, module.momentum, count, count.clone())
        for module in net.modules()
        if isinstance(module, _BatchNorm) and (count := module.num_batches_tracked) is not None
    ]
    for norm, *_ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count, before in norms:
            norm.momentum = momentum
            count.copy_(before)
