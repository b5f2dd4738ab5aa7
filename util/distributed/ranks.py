"""Which rank this process is, what only rank 0 does, and the launcher that started the ranks."""

import os
import re
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import cache, wraps
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from tqdm import tqdm

from util.errors import UserError, printable

T = TypeVar("T")
_LAUNCHER = os.getppid()
_DEFAULTS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "0"}


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


def check_environment() -> None:
    """UserError if the environment has numbers of ranks that torchrun would not have put there."""
    found = {name: os.environ.get(name, default) for name, default in _DEFAULTS.items()}
    found["LOCAL_WORLD_SIZE"] = os.environ.get("LOCAL_WORLD_SIZE", found["WORLD_SIZE"])
    if all(re.fullmatch("[0-9]{1,9}", number) for number in found.values()):
        numbers = {name: int(number) for name, number in found.items()}
        if all(numbers[f"{p}RANK"] < numbers[f"{p}WORLD_SIZE"] for p in ("", "LOCAL_")):
            return
    given = [name for name in found if name in os.environ]
    shown = ", ".join(f"{name}={found[name][:20]!r}" for name in given)
    raise UserError(
        f"the environment has {shown}; start several ranks with torchrun, or unset these variables"
    )


def is_main() -> bool:
    """Whether this process is rank 0, which writes files and prints."""
    return rank() == 0


def gpu_id(device: torch.device) -> str:
    """What tells the GPU of a device from all others in the world; "" for another device."""
    if device.type != "cuda":
        return ""
    found = torch.cuda.get_device_properties(device)  # torch 2.4 tells no UUID
    return str(getattr(found, "uuid", f"{socket.gethostname()} {device}"))


class NoOp:
    """Stands on the other ranks for what only rank 0 has: takes every call, and is false."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None

    def __bool__(self) -> Literal[False]:
        return False


def main_only(function: Callable[..., T]) -> Callable[..., T | NoOp]:
    """Decorates a function or class that writes files: on the other ranks its result is a NoOp."""

    @wraps(function)
    def on_rank_0(*args: Any, **kwargs: Any) -> T | NoOp:
        return function(*args, **kwargs) if is_main() else NoOp()

    return on_rank_0


@main_only
def print0(message: str) -> None:
    """Print a message on rank 0; a progress bar on the terminal stays whole."""
    tqdm.write(printable(message), file=sys.stdout)
    sys.stdout.flush()


def summary(device: torch.device, batch_size: int) -> str:
    """A phrase that says where the job runs and how large its batches are."""
    if world_size() == 1:
        return f"{device}, batch size {batch_size}"
    total = batch_size * world_size()
    return f"{world_size()} ranks ({device.type}), batch size {batch_size} each, {total} in all"


@cache
def _store_of_job() -> dist.Store:
    """Torchrun's key-value store, there before the process group and after a restart."""
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
    except ValueError as error:  # without MASTER_ADDR, say
        raise UserError(f"the ranks cannot meet ({error}); start them with torchrun") from None
    while isinstance(store, dist.PrefixStore):  # some versions of torch put the attempt in front
        store = store.underlying_store
    return store


def store() -> dist.Store:
    """The part of that store for this attempt: keys of one that failed must not be read."""
    return dist.PrefixStore(f"attempt{restarts()}", _store_of_job())


def restarts() -> int:
    """How often torchrun (`--max-restarts`) has started the job again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def note_saved() -> None:
    """Remember, in case torchrun starts the job again, that it has saved a state."""
    if is_main() and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        with suppress(RuntimeError, UserError):  # without torchrun there will be no restart
            _store_of_job().set("saved", "yes")


def saved_before_restart() -> bool:
    """Whether torchrun has started the job again after it had saved a state."""
    return restarts() > 0 and _store_of_job().check(["saved"])


def launcher_is_gone() -> bool:
    """Whether torchrun has ended without its ranks, as when it was killed."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != _LAUNCHER
