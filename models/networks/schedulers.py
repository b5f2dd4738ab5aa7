"""LR schedulers: the learning rate, epoch by epoch.

Epochs are counted from 1, and a scheduler steps at the end of each. All policies but "plateau" are
closed forms of the epoch, so a run that starts late has the rates of an uninterrupted run.
"""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from util.choices import choose


def linear(epoch: int, opt: Any) -> float:
    """Full for n_epochs, then down to 1 / (n_epochs_decay + 1) in the last epoch, not to 0."""
    return max(0.0, 1 - max(0, epoch - opt.n_epochs) / (opt.n_epochs_decay + 1))


def step(epoch: int, opt: Any) -> float:
    """A tenth after every lr_decay_iters epochs."""
    return 0.1 ** ((epoch - 1) // opt.lr_decay_iters)


def cosine(epoch: int, opt: Any) -> float:
    """Along a cosine (SGDR without restarts, arXiv 1608.03983) to 0 after n_epochs, then up."""
    if opt.n_epochs < 1:
        raise ValueError(f"n_epochs is {opt.n_epochs}; the cosine needs 1 or more")
    return (1 + math.cos(math.pi * (epoch - 1) / opt.n_epochs)) / 2


# the factor of an epoch; None is a fifth when the loss has not fallen by 1 % for over 5 epochs
LR_POLICIES = {"linear": linear, "step": step, "plateau": None, "cosine": cosine}


def get_scheduler(optimizer: Optimizer, opt: Any) -> LRScheduler | ReduceLROnPlateau:
    """The LR scheduler of `opt.lr_policy`, set to epoch `opt.epoch_count`.

    `opt` also has n_epochs, n_epochs_decay or lr_decay_iters, as the policy needs. Call `step()` at
    the end of each epoch, for "plateau" `step(loss)` with the mean generator loss of the epoch.
    The state dict loads with weights_only. An unknown lr_policy raises ValueError.
    """
    factor = choose(LR_POLICIES, opt.lr_policy, "lr_policy")
    if factor is None:
        return ReduceLROnPlateau(optimizer, mode="min", factor=0.2, threshold=0.01, patience=5)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    last = opt.epoch_count - 2  # the constructor takes one step itself
    return LambdaLR(optimizer, lambda done: factor(done + 1, opt), last_epoch=last)
