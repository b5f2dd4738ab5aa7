"""Random numbers of the training: seeding them, and their states for a run that resumes."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from util import distributed

_shared = torch.Generator()  # its numbers are alike on all ranks


def seed_everything(seed: int) -> None:
    """Seed what must be alike on all ranks: the initialisation, numbers drawn for the batch."""
    _seed(seed)
    _shared.manual_seed(seed)


def seed_rank(seed: int) -> None:
    """Seed what must differ between ranks: dropout and image pools. Rank 0 stays as it is."""
    if distributed.rank():
        _seed(seed + 1_000_003 * distributed.rank())


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rand_of_batch(count: int) -> Tensor:
    """This rank's part, (count,) in [0, 1), of what one process would draw for the whole batch."""
    numbers = torch.rand(count * distributed.world_size(), generator=_shared)
    return numbers.chunk(distributed.world_size())[distributed.rank()]


def get_state(device: torch.device) -> dict[str, Any]:
    """The states of all generators that training draws from, as plain data and tensors."""
    name, keys, *rest = np.random.get_state()
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "shared": _shared.get_state(),
    }
    if device.type in ("cuda", "mps"):
        states[device.type] = getattr(torch, device.type).get_rng_state()
    return states


def set_state(states: dict[str, Any], own: bool = True) -> None:
    """Continue with the numbers after `get_state`; without `own` only those alike on all ranks."""
    _shared.set_state(states["shared"])
    if not own:
        return
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    for kind, available in (("cuda", torch.cuda), ("mps", torch.backends.mps)):
        if kind in states and available.is_available():
            getattr(torch, kind).set_rng_state(states[kind])
