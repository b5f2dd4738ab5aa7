"""Ranks, and what is said and written once for the whole job: the only module that knows of them.

torchrun starts the processes and tells each its place in environment variables. A process that
was started alone is a job of one rank, and everything here then costs nothing.
"""

import inspect
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cache, wraps
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from util.distributed import sync_batch_norm
from util.errors import UserError, printable

T = TypeVar("T")


# ---- the place of this process ---------------------------------------------------------------


def rank() -> int:
    """This process's number in the job, 0 to world_size() - 1."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """How many processes of the job this machine runs."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(world_size())))


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return rank() == 0


def summary(device: torch.device, batch_size: int) -> str:
    """A phrase that says where the job runs and how large its batches are."""
    if world_size() == 1:
        return f"{device}, batch size {batch_size}"
    total = batch_size * world_size()
    return f"{world_size()} ranks ({device.type}), batch size {batch_size} each, {total} in all"


# ---- the job ---------------------------------------------------------------------------------


@contextmanager
def job(device: torch.device, timeout_minutes: float) -> Iterator[None]:
    """Join the ranks for the length of a block; in a job of one process, nothing.

    An error leaves the block as the exit of the process: a UserError is told once for the whole
    job (exit status 2), another exception keeps its traceback on the first rank that has one, and
    a rank that only lost the others says so if nobody else said anything (exit status 1).

    Args:
        device: this rank's.
        timeout_minutes: how long a rank waits for the others before it gives up.
    """
    if world_size() == 1:
        yield
        return
    try:
        _join(device, timedelta(minutes=timeout_minutes))
        yield
    except UserError as error:
        print_error_once(_as_error(error))
        raise SystemExit(2) from None
    except Exception as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            print_error_once(
                _as_error(f"rank {rank()} lost the other ranks: one was killed, or hangs")
            )
            raise SystemExit(1) from None
        if not _first_to_speak():
            raise SystemExit(1) from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(device: torch.device, timeout: timedelta) -> None:
    nccl = device.type == "cuda" and torch.cuda.device_count() >= local_world_size()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=dist.PrefixStore(f"group{next(_numbers)}", _store()),
        rank=rank(),
        world_size=world_size(),
        timeout=timeout,
        device_id=device if nccl else None,
    )
    if not is_main():
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


@cache
def _store_of_job() -> dist.Store:
    """A key-value store that there is before the process group; it outlives restarts."""
    store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
    while isinstance(store, dist.PrefixStore):  # some versions of torch put the attempt in front
        store = store.underlying_store
    return store


@cache
def _store() -> dist.Store:
    """The part of it that belongs to this attempt: keys of one that failed must not be read."""
    return dist.PrefixStore(f"attempt{restarts()}", _store_of_job())


def restarts() -> int:
    """How often torchrun (`--max-restarts`) has started the job again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def note_saved() -> None:
    """Remember, for the case that torchrun starts the job again, that it has saved a state."""
    if is_main() and "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(RuntimeError):  # torchrun was killed: there will be no restart
            _store_of_job().set("saved", "yes")


def launcher_is_gone() -> bool:
    """Whether torchrun has ended without its ranks, as when it was killed."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != _LAUNCHER


_LAUNCHER = os.getppid()


def saved_before_restart() -> bool:
    """Whether torchrun has started the job again after it had saved a state."""
    return restarts() > 0 and _store_of_job().check(["saved"])


_numbers = itertools.count()


def from_main(compute: Callable[[], T]) -> T:
    """What rank 0 computes, on every rank: only its machine may have the files.

    Args:
        compute: called on rank 0 alone; returns what JSON can hold.
    """
    if world_size() == 1:
        return compute()
    key = f"value{next(_numbers)}"
    if is_main():
        _store().set(key, json.dumps(compute()))
    return json.loads(_store().get(key))


def broadcast(value: T) -> T:
    """Rank 0's value (plain data and tensors on the CPU) on every rank of the group."""
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
    dist.scatter_object_list(mine, values if is_main() else None, src=0)
    return mine[0]


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order, on rank 0; an empty list on the others."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size() if is_main() else []
    dist.gather_object(value, values if is_main() else None, dst=0)
    return values


def gather_everywhere(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def run(main: Callable[[], None]) -> None:
    """Run a program: a UserError ends in its one message and exit status 2, without a traceback."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal may know only ASCII
    try:
        main()
    except UserError as error:
        print_error_once(_as_error(error))
        sys.exit(2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # torchrun passes on another
        if is_main():
            print("interrupted", file=sys.stderr, flush=True)
        sys.exit(130)


def one_process_only() -> None:
    """For programs that several ranks would only run several times."""
    if world_size() > 1:
        raise UserError(
            f"this runs in one process, and torchrun started {world_size()}; use python"
        )


# ---- speaking and writing once ---------------------------------------------------------------


def print0(message: str) -> None:
    """Print one line for the whole job; a progress bar on the terminal stays whole."""
    if is_main():
        with quiet_when_nobody_reads():
            tqdm.write(printable(message), file=sys.stdout)
            sys.stdout.flush()


@contextmanager
def quiet_when_nobody_reads() -> Iterator[None]:
    """The reader of a pipe is free to leave (`train.py | head`); what is said is in the logs."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error_once(message: str) -> None:
    """Print an error on stderr, if no other rank has printed one."""
    if _first_to_speak():
        print(printable(message), file=sys.stderr, flush=True)


def _first_to_speak() -> bool:
    """Whether no other rank has an error to tell; if one has, let that one leave first.

    torchrun blames the first that is gone, and ends the others at once.
    """
    if world_size() == 1:
        return True
    order: list[int] = []
    asking = threading.Thread(target=_ask_for_order, args=(order,), daemon=True)
    asking.start()
    asking.join(10)  # the machine that serves the store may be cut off: that call has no timeout
    if not order:
        return local_rank() == 0
    if order[0] > 1:
        time.sleep(5)
    return order[0] == 1


def _ask_for_order(order: list[int]) -> None:
    with suppress(Exception):  # the store died with the machine that served it
        order.append(_store().add("spoke", 1))


def _as_error(message: object) -> str:
    return f"{os.path.basename(sys.argv[0])}: error: {message}"


class NoOp:
    """Stands on the other ranks for what only rank 0 has: takes every call, and is false."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        """Any method: it does nothing."""
        return lambda *args, **kwargs: None

    def __bool__(self) -> Literal[False]:
        """False."""
        return False


def on_main(make: Callable[..., T], *args: Any, **kwargs: Any) -> T | NoOp:
    """`make(...)` on rank 0, a stand-in that does nothing on the others."""
    return make(*args, **kwargs) if is_main() else NoOp()


def main_only(function: Callable[..., None]) -> Callable[..., None]:
    """Decorates what writes files: on the other ranks it does nothing."""

    @wraps(function)
    def on_rank_0(*args: Any, **kwargs: Any) -> None:
        if is_main():
            function(*args, **kwargs)

    return on_rank_0


# ---- the same training on any number of ranks ------------------------------------------------


def split_batch(global_batch_size: int) -> int:
    """The share of each rank; UserError where it does not come out even."""
    share, rest = divmod(global_batch_size, world_size())
    if rest or share < 1:
        raise UserError(
            f"--global_batch_size {global_batch_size} cannot be split evenly over {world_size()} "
            f"ranks; use {world_size()}, or a multiple of it"
        )
    return share


def norm_for_job(norm: str, given: bool) -> str:
    """The norm layer to train with on this number of ranks (design: syncbatch for batch).

    Args:
        norm: the name of a norm layer.
        given: whether the user asked for it, or it is only a model's default.

    Raises:
        UserError: batch norm was asked for on several ranks.
    """
    if norm != "batch" or world_size() == 1:
        return norm
    if given:
        raise UserError(BATCH_NORM_REFUSED.format(f"--norm batch on {world_size()} ranks"))
    print0("--norm batch, the default of this model, becomes syncbatch on several ranks")
    return "syncbatch"


BATCH_NORM_REFUSED = (
    "{} would normalise each rank's share of the batch by itself, as if the batch were that "
    "small; use --norm syncbatch (statistics over all ranks) or --norm instance (per image)"
)


def wrap(net: nn.Module, norm: str) -> nn.Module:
    """Make a network ready for the job; in a job of one process, the network itself.

    Args:
        net: on its device; the same on all ranks or not: rank 0's weights and buffers win.
        norm: the norm layer it was built with; any BatchNorm in it becomes SyncBatchNorm.

    Returns:
        The network in DistributedDataParallel: its gradients are means over the ranks.

    Raises:
        ValueError: norm is "batch" and there are several ranks.
    """
    if world_size() == 1:
        return net
    if norm == "batch":
        raise ValueError(BATCH_NORM_REFUSED.format(f'norm="batch" on {world_size()} ranks'))
    net = sync_batch_norm.convert(unwrap(net))
    for tensor in itertools.chain(net.parameters(), net.buffers()):
        dist.broadcast(tensor.detach(), 0)
    if not any(p.requires_grad for p in net.parameters()):
        return net
    device = next(net.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(net, device_ids=ids, **_buffers_left_alone())


def _buffers_left_alone() -> dict[str, bool]:
    """D runs twice before one backward: a broadcast in between would change saved buffers.

    The argument has another name since torch 2.13.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return {name: False}


def unwrap(net: nn.Module) -> nn.Module:
    """The network that `wrap` was given, or that somebody put into nn.DataParallel."""
    wrappers = (DistributedDataParallel, nn.DataParallel)
    return net.module if isinstance(net, wrappers) else net


@contextmanager
def unsynchronised(nets: Iterable[nn.Module]) -> Iterator[None]:
    """Within this block gradients of these networks are added up on each rank by itself.

    The next backward pass after it averages the sums over the ranks.
    """
    with ExitStack() as stack:
        for net in nets:
            if isinstance(net, DistributedDataParallel):
                stack.enter_context(net.no_sync())
        yield


class StepFlags:
    """What any rank has to say to all, heard by all after the same step.

    On a GPU nobody waits for the device: the answer is that of the step before.
    """

    def __init__(self) -> None:
        """Nothing was cast yet."""
        self._pending: tuple[Tensor, Any] | None = None

    def cast(self, flags: Tensor) -> list[float]:
        """Give this rank's flags, (n,) float32; a step's worth.

        Returns:
            The largest over the ranks, of this step on a CPU, of the one before on a GPU; empty
            where there was none before.
        """
        if dist.is_initialized():
            flags = flags.to(_collective_device())
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        if flags.device.type != "cuda":
            return flags.tolist()
        before, host = self.settle(), torch.empty(flags.shape, pin_memory=True)
        host.copy_(flags, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = host, event
        return before

    def settle(self) -> list[float]:
        """The answer that is still due; empty if none is."""
        if self._pending is None:
            return []
        (host, event), self._pending = self._pending, None
        event.synchronize()
        return host.tolist()


def check_ddp_consistency(nets: Mapping[str, nn.Module]) -> None:
    """Make sure that the ranks still train the same weights, bit for bit.

    Raises:
        UserError: they do not. DistributedDataParallel averages the gradients of one backward per
            forward; those of a second one it only adds, on each rank its own.
    """
    if not dist.is_initialized():
        return
    for name, net in nets.items():
        parameters = [p.detach().double().sum() for p in net.parameters()]
        least = torch.stack(parameters) if parameters else torch.zeros(1)
        most = least.clone()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        if not torch.equal(least.nan_to_num(), most.nan_to_num()):
            raise UserError(
                f"the ranks train different weights in network {name}: add up the losses of a step "
                "and call backward() once, and leave no parameter frozen when training starts"
            )


def mean(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Each value, a scalar tensor or a number, averaged over the ranks; waits for the device."""
    floats = _as_floats(values)
    if dist.is_initialized() and floats:
        total = torch.tensor(list(floats.values()), dtype=torch.float64)
        total = total.to(_collective_device())
        dist.all_reduce(total)
        floats = dict(zip(floats, (total / world_size()).tolist(), strict=True))
    return floats


def _collective_device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _as_floats(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Waits for the device once, not per value."""
    floats = dict(values)
    tensors = {k: v.detach().reshape(()) for k, v in values.items() if isinstance(v, Tensor)}
    if tensors:
        device = next(iter(tensors.values())).device
        stacked = torch.stack([tensor.to(device) for tensor in tensors.values()])
        floats.update(zip(tensors, stacked.tolist(), strict=True))
    return {name: float(value) for name, value in floats.items()}
