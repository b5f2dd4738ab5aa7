"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): memory for a second forward pass.

Of a stretch of layers only the input is kept, and the backward pass computes the rest again.
Dropout draws the same masks then, and batch norm does not count the pictures twice.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(net: nn.Module) -> None:
    """Let the generators of this program that are in `net` recompute; others stay as they are."""
    for module in net.modules():
        if isinstance(module, CheckpointsActivations):
            module.recompute = True


class CheckpointsActivations(nn.Module):
    """A network whose `run` recomputes once `checkpoint_activations` was called."""

    recompute = False

    def run(self, layers: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Apply `layers` to `x` one after the other."""
        if self.recompute and torch.is_grad_enabled():
            stretch = nn.Sequential(*layers)
            return checkpoint(
                stretch, x, use_reentrant=False, context_fn=lambda: _contexts(stretch)
            )
        for layer in layers:
            x = layer(x)
        return x


def _contexts(layers: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For the forward pass, and for doing it again."""
    return nullcontext(), statistics_left_alone(layers)


@contextmanager
def statistics_left_alone(net: nn.Module) -> Iterator[None]:
    """Within this block batch norm does not change its running statistics in training mode.

    It still goes through the motions, so that a second pass keeps the same tensors as the first.
    """
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
