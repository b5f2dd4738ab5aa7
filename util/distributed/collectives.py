"""Values that ranks exchange; in a job of one process each is what the process has itself."""

import hashlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from util.distributed import ranks
from util.errors import UserError, one_line

T = TypeVar("T")


_uses: Counter[str] = Counter()  # of keys of the store


def _fresh(key: str) -> str:
    """A key that this process has not used, and that its other ranks use for the same."""
    _uses[key] += 1
    return f"{key} {_uses[key]}"


def from_main(name: str, compute: Callable[[], T]) -> T:
    """What `compute` returns on rank 0, for JSON, on every rank; also before they have joined."""
    if ranks.world_size() == 1:
        return compute()
    key = _fresh(name)
    if ranks.is_main():
        ranks.store().set(key, json.dumps(compute()))
    return json.loads(ranks.store().get(key))


def exchange(name: str, value: T) -> list[T]:
    """The values of all ranks, for JSON, in their order; also before they have joined."""
    key = f"{_fresh(name)} of rank"
    ranks.store().set(f"{key} {ranks.rank()}", json.dumps(value))
    return [json.loads(ranks.store().get(f"{key} {n}")) for n in range(ranks.world_size())]


def broadcast(value: T) -> T:
    """Rank 0's value (plain data and tensors on the CPU) on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def scatter(values: list[T]) -> T:
    """The value for this rank from rank 0's list, which has one for each."""
    if not dist.is_initialized():
        return values[0]
    mine: list[Any] = [None]
    dist.scatter_object_list(mine, values if ranks.is_main() else None, src=0)
    return mine[0]


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order, on rank 0; an empty list on the others."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * ranks.world_size() if ranks.is_main() else []
    dist.gather_object(value, values if ranks.is_main() else None, dst=0)
    return values


def gather_everywhere(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * ranks.world_size()
    dist.all_gather_object(values, value)
    return values


def check_same(kind: str, lines: Callable[[], Sequence[str]]) -> None:
    """UserError that names a rank and the first difference, unless all ranks have the same lines.

    `kind`: what they are, in the plural. On one rank `lines` is not called.
    """
    if not dist.is_initialized():
        return
    mine = lines()
    digest = hashlib.blake2b("\n".join(mine).encode("utf-8", "surrogatepass")).digest()
    if len(set(gather_everywhere(digest))) == 1:
        return
    pairs = itertools.zip_longest(mine, broadcast(mine), fillvalue="nothing")
    first = next((pair for pair in pairs if pair[0] != pair[1]), None)
    for rank, difference in enumerate(gather_everywhere(first)):
        if difference:
            here, there = map(one_line, difference)
            raise UserError(
                f"the ranks were given different {kind}: rank {rank} has {here} where rank 0 has "
                f"{there}; give all the same"
            )


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(()))  # not dist.barrier, which takes the GPU where there is one


def mean(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Each value, a scalar tensor or a number, averaged over the ranks."""
    floats = [float(v.item() if isinstance(v, Tensor) else v) for v in values.values()]
    if dist.is_initialized() and floats:
        total = torch.tensor(floats, dtype=torch.float64)
        dist.all_reduce(total)
        floats = (total / ranks.world_size()).tolist()
    return dict(zip(values, floats, strict=True))


def maxima(values: Sequence[float]) -> list[float]:
    """The maximum of each value over the ranks, on every rank."""
    most = torch.tensor(values, dtype=torch.float64)
    if dist.is_initialized():
        dist.all_reduce(most, dist.ReduceOp.MAX)
    return most.tolist()


class StepFlags:
    """Flags on the device that any rank raises and all ranks see after the same step.

    On a GPU nobody waits for the device: the answer is that of the step before.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, Any] | None = None

    def cast(self, flags: Tensor) -> list[float]:
        """The maxima over the ranks of `flags`, (n,) float32; on a GPU of the call before."""
        if dist.is_initialized():
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        if flags.device.type != "cuda":
            return flags.tolist()
        before, event = self.settle(), torch.cuda.Event()
        self._pending = flags.to("cpu", non_blocking=True), event  # into pinned memory
        event.record()
        return before

    def settle(self) -> list[float]:
        """The answer that is still due; empty if none is."""
        if self._pending is None:
            return []
        (host, event), self._pending = self._pending, None
        wait_for(event)
        return host.tolist()


def wait_for(event: torch.cuda.Event) -> None:
    """Wait for the device, and hear signals: in `event.synchronize()` Python is deaf to them."""
    while not event.query():
        time.sleep(1e-4)
