"""A program and the job of several ranks that it may be: how it joins them, and how it ends."""

import atexit
import io
import itertools
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from util.distributed import ranks
from util.distributed.collectives import exchange
from util.errors import UserError, one_message, printable

# gloo raises a plain RuntimeError: "[/…/gloo/transport/tcp/pair.cc:561] Connection closed by peer"
GLOO_ERROR = re.compile(r"(Gloo \w+ failed with )?\[[^\]]*\bgloo/[^\]]+\.(cc|h):\d+\] ")
_groups = itertools.count()


def run(main: Callable[[], None]) -> None:
    """Run a program on this rank; how it fails is told once for the whole job.

    A UserError is its one message (exit status 2). Another exception keeps its traceback, on the
    first rank that has one; a rank that only lost the others, or waited too long for them, says so
    if no other has reported an error (status 1). After an error no rank waits for another: what
    NCCL does at the end would wait for collectives that never come.
    """
    for name in ("stdout", "stderr"):
        setattr(sys, name, BestEffort(getattr(sys, name)))
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # until all is imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with one_message():
        ranks.check_environment()
    try:
        main()
        return
    except UserError as error:
        print_error_once(f"{os.path.basename(sys.argv[0])}: error: {error}")
        status = 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # torchrun passes on another
        if ranks.is_main():
            print("interrupted", file=sys.stderr)
        status = 130
    except Exception as error:
        if ranks.world_size() == 1:
            raise
        from_gloo = type(error) is RuntimeError and GLOO_ERROR.match(str(error))
        if from_gloo or isinstance(error, dist.DistError):  # NCCL or the store
            lost = f"rank {ranks.rank()} lost the other ranks: one was killed, or hangs"
            print_error_once(f"{os.path.basename(sys.argv[0])}: error: {lost}")
        elif _is_first_to_fail():
            traceback.print_exc()
        status = 1
    if not dist.is_initialized():
        sys.exit(status)
    atexit._run_exitfuncs()  # which end the loader's workers
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class BestEffort:
    """A text stream that loses what it cannot write: a terminal closes, a reader of a pipe ends."""

    def __init__(self, stream: Any):  # None where the program was started without it
        self._stream = stream or open(os.devnull, "w")
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors="backslashreplace")  # a terminal may know only ASCII

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        """Write or lose the text."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Write out, or lose, what is buffered."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def one_process_only() -> None:
    """For programs that several ranks would only run several times."""
    if ranks.world_size() > 1:
        started = f"torchrun started {ranks.world_size()}"
        raise UserError(f"this runs in one process, and {started}; use python")


@contextmanager
def job(device: torch.device, timeout_minutes: float) -> Iterator[None]:
    """Join the ranks for the length of a block, which `run` is around; on one rank, nothing.

    All use NCCL, for what is on GPUs, where each has a GPU of its own; else all use gloo.
    """
    if ranks.world_size() == 1:
        yield
        return
    gpus = exchange("GPU", ranks.gpu_id(device))
    nccl = all(gpus) and len(set(gpus)) == len(gpus)
    if any(gpus) and not nccl:
        ranks.print0("warning: several ranks share a GPU (over gloo), which is slow")
    _join(device, nccl, timedelta(minutes=timeout_minutes))
    try:
        yield
    except SystemExit:  # all ranks leave: a signal came
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _join(device: torch.device, nccl: bool, timeout: timedelta) -> None:
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if nccl else "gloo",  # objects and numbers stay on the CPU
        store=dist.PrefixStore(f"group{next(_groups)}", ranks.store()),
        rank=ranks.rank(),
        world_size=ranks.world_size(),
        timeout=timeout,
        device_id=device if nccl else None,
    )
    if not ranks.is_main():
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")


def print_error_once(message: str) -> None:
    """Print an error on stderr, unless another rank has printed one."""
    if _is_first_to_fail():
        print(printable(message), file=sys.stderr, flush=True)


def _is_first_to_fail() -> bool:
    """Whether no other rank has reported an error; if one has, let that one exit first.

    torchrun blames the first that exits, and ends the others at once.
    """
    if ranks.world_size() == 1:
        return True
    order: list[int] = []

    def ask() -> None:
        with suppress(Exception):  # the store died with the machine that served it
            order.append(ranks.store().add("failed", 1))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(10)  # where that machine is only cut off, the call never returns
    if order and order[0] > 1:
        time.sleep(5)
    return order == [1] if order else ranks.local_rank() == 0
