"""Many files read at once, in processes; one that dies takes only its own file with it."""

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any

import torch

from util.errors import UserError

AHEAD = 4  # files handed out per process, so that none waits for work
_task: Callable[[Any], Any]


def results(
    task: Callable[[Any], Any], items: Iterable[Any], processes: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (item, task(item)) for all items, in any order.

    Args:
        task: what to do; it and what it returns can be pickled.
        items: any number: only a few are in memory at a time.
        processes: how many; 0 for none but this one.

    Yields:
        The item and its result; None if the item killed its process, twice.

    Raises:
        UserError: the task cannot be sent to a process.
    """
    if not processes:
        yield from ((item, task(item)) for item in items)
        return
    check_sendable(task)
    left = iter(items)
    while suspects := (yield from _until_one_dies(task, left, processes)):
        yield from _one_by_one(task, suspects)


def check_sendable(task: Callable[[Any], Any]) -> None:
    """Where processes start afresh, a dataset must be one that can be pickled."""
    if multiprocessing.get_start_method() == "fork":
        return
    try:
        pickle.dumps(task)
    except Exception as error:  # pickle raises what it likes
        raise UserError(
            f"the dataset cannot be sent to another process ({error}); use --num_threads 0"
        ) from None


def _until_one_dies(
    task: Callable[[Any], Any], left: Iterator[Any], processes: int
) -> Generator[tuple[Any, Any], None, list[Any]]:
    """Yield results until all are there or a process dies; returns the items that were with it."""
    pool = ProcessPoolExecutor(processes, initializer=_prepare, initargs=(task,))
    running: dict[Future, Any] = {}
    try:
        for item in islice(left, AHEAD * processes):
            _submit(pool, item, running)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield running.pop(future), result
                for item in islice(left, 1):
                    _submit(pool, item, running)
    except BrokenProcessPool:
        return (yield from _what_is_left(running))
    except BaseException:  # Ctrl-C, most likely: nobody waits for what they are reading
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return []


def _submit(pool: ProcessPoolExecutor, item: Any, running: dict[Future, Any]) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a process that this starts inherits it
    try:
        running[pool.submit(_do, item)] = item
    except BrokenProcessPool as error:
        unborn: Future = Future()  # or nobody would know of the item
        unborn.set_exception(error)
        running[unborn] = item
        raise
    finally:
        signal.signal(signal.SIGINT, before)


def _what_is_left(
    running: dict[Future, Any],
) -> Generator[tuple[Any, Any], None, list[Any]]:
    """Yield what was ready when a process died; returns the other items, in their order."""
    wait(running)
    for future, item in running.items():
        if not future.exception():
            yield item, future.result()
    return [item for future, item in running.items() if future.exception()]


def _one_by_one(task: Callable[[Any], Any], items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield results of items of which some kill their process; for these the result is None."""
    left = iter(items)
    while suspects := (yield from _until_one_dies(task, left, 1)):
        yield suspects[0], None  # with one process, the first is the one it was at
        left = chain(suspects[1:], left)


def _prepare(task: Callable[[Any], Any]) -> None:
    global _task
    _task = task
    torch.set_num_threads(1)  # or each process would want all cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A parent that is killed tells nobody, and its processes would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _do(item: Any) -> Any:
    return _task(item)
