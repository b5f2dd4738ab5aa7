"""LR schedulers: the learning rate, epoch by epoch.

Epochs are counted from 1 and a scheduler steps once at the end of each. All policies but
"plateau" are closed forms of the epoch, so a run that starts at epoch 51 has the learning rate
that an uninterrupted run has there.
"""

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from util.choices import choose


def get_scheduler(optimizer: Optimizer, opt: Any) -> LRScheduler | ReduceLROnPlateau:
    """The LR scheduler of `opt.lr_policy`, set to epoch `opt.epoch_count`.

    Call `step()` at the end of each epoch, for "plateau" `step(loss)` with the mean generator
    loss of the epoch. The state dict of the result holds no code and loads with weights_only.

    Args:
        optimizer: its learning rates are those of a factor of 1.
        opt: lr_policy and epoch_count, and of n_epochs, n_epochs_decay and lr_decay_iters those
            that the policy uses.

    Raises:
        ValueError: no such lr_policy, or it cannot be with these numbers.
    """
    return choose(LR_POLICIES, opt.lr_policy, "lr_policy")(optimizer, opt)


def linear(optimizer: Optimizer, opt: Any) -> LambdaLR:
    """Full for n_epochs, then down to 1 / (n_epochs_decay + 1) in the last epoch, not to 0."""

    def factor(epoch: int) -> float:
        return max(0.0, 1 - max(0, epoch - opt.n_epochs) / (opt.n_epochs_decay + 1))

    return _by_epoch(optimizer, factor, opt.epoch_count)


def step(optimizer: Optimizer, opt: Any) -> LambdaLR:
    """A tenth after every lr_decay_iters epochs."""
    return _by_epoch(
        optimizer, lambda epoch: 0.1 ** ((epoch - 1) // opt.lr_decay_iters), opt.epoch_count
    )


def cosine(optimizer: Optimizer, opt: Any) -> LambdaLR:
    """Down to 0 after n_epochs along half a cosine (SGDR without restarts, arXiv 1608.03983).

    Epochs beyond n_epochs follow the cosine up again, as in torch's CosineAnnealingLR.

    Raises:
        ValueError: n_epochs, half a period, is 0.
    """
    if opt.n_epochs < 1:
        raise ValueError(f"n_epochs is {opt.n_epochs}; the cosine needs 1 or more")

    def factor(epoch: int) -> float:
        return (1 + math.cos(math.pi * (epoch - 1) / opt.n_epochs)) / 2

    return _by_epoch(optimizer, factor, opt.epoch_count)


def plateau(optimizer: Optimizer, opt: Any) -> ReduceLROnPlateau:
    """A fifth whenever the loss has not fallen by 1 % for more than 5 epochs."""
    return ReduceLROnPlateau(optimizer, mode="min", factor=0.2, threshold=0.01, patience=5)


LR_POLICIES = {"linear": linear, "step": step, "plateau": plateau, "cosine": cosine}


def _by_epoch(optimizer: Optimizer, factor: Callable[[int], float], first_epoch: int) -> LambdaLR:
    """LambdaLR whose `last_epoch` is the number of epochs done, by earlier runs too."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    # the constructor takes one step itself, from first_epoch - 2 to first_epoch - 1
    return LambdaLR(optimizer, lambda done: factor(done + 1), last_epoch=first_epoch - 2)
