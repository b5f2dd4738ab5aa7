"""What is printed and written once for the whole job."""

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from util.distributed import ranks
from util.errors import printable

T = TypeVar("T")


def print0(message: str) -> None:
    """Print a message on rank 0; a progress bar on the terminal stays whole."""
    if not ranks.is_main():
        return
    try:
        tqdm.write(printable(message), file=sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has left (`train.py | head`); the logs have it all
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error_once(message: str) -> None:
    """Print an error on stderr, unless another rank has printed one."""
    if is_first_to_fail():
        print(printable(message), file=sys.stderr, flush=True)


def is_first_to_fail() -> bool:
    """Whether no other rank has an error to report; if one has, let that one exit first.

    torchrun blames the first that exits, and ends the others at once.
    """
    if ranks.world_size() == 1:
        return True
    order: list[int] = []
    asking = threading.Thread(target=_ask_for_order, args=(order,), daemon=True)
    asking.start()
    asking.join(10)  # the machine that serves the store may be cut off: that call has no timeout
    if not order:
        return ranks.local_rank() == 0
    if order[0] > 1:
        time.sleep(5)
    return order[0] == 1


def _ask_for_order(order: list[int]) -> None:
    with suppress(Exception):  # the store died with the machine that served it
        order.append(ranks.store().add("failed", 1))


def as_error(message: object) -> str:
    """An error message in the form of argparse's."""
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
    """`make(...)` on rank 0, a NoOp on the others."""
    return make(*args, **kwargs) if ranks.is_main() else NoOp()


def main_only(function: Callable[..., None]) -> Callable[..., None]:
    """Decorates a function that writes files: on the other ranks it does nothing."""

    @wraps(function)
    def on_rank_0(*args: Any, **kwargs: Any) -> None:
        if ranks.is_main():
            function(*args, **kwargs)

    return on_rank_0
