"""LR schedulers: the learning rate, epoch by epoch.

Epochs are counted from 1 and a scheduler steps once at the end of each. All policies but
"plateau" are closed forms of the epoch, so a run that starts at epoch 51 has the learning rate
that an uninterrupted run has there.
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
    """Down to 0 after n_epochs along half a cosine (SGDR without restarts, arXiv 1608.03983).

    Epochs beyond n_epochs follow the cosine up again, as in torch's CosineAnnealingLR.
    """
    if opt.n_epochs < 1:
        raise ValueError(f"n_epochs is {opt.n_epochs}; the cosine needs 1 or more")
    return (1 + math.cos(math.pi * (epoch - 1) / opt.n_epochs)) / 2


# the factor of an epoch; None is a fifth when the loss has not fallen by 1 % for over 5 epochs
LR_POLICIES = {"linear": linear, "step": step, "plateau": None, "cosine": cosine}


def get_scheduler(optimizer: Optimizer, opt: Any) -> LRScheduler | ReduceLROnPlateau:
    """The LR scheduler of `opt.lr_policy`, set to epoch `opt.epoch_count`.

    `opt` also has n_epochs, n_epochs_decay or lr_decay_iters, as the policy needs. Call `step()` at
    the end of each epoch, for "plateau" `step(loss)` with the mean generator loss of the epoch.
    The state dict holds no code and loads with weights_only.

    Raises:
        ValueError: no such lr_policy, or "cosine" with n_epochs, half a period, 0.
    """
    factor = choose(LR_POLICIES, opt.lr_policy, "lr_policy")
    if factor is None:
        return ReduceLROnPlateau(optimizer, mode="min", factor=0.2, threshold=0.01, patience=5)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    # the constructor takes one step itself, from epoch_count - 2 to epoch_count - 1
    last = opt.epoch_count - 2
    return LambdaLR(optimizer, lambda done: factor(done + 1, opt), last_epoch=last)
