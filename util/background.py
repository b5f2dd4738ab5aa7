"""Work for threads behind a short queue, so that the main thread goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

QUEUE = 4  # calls for each thread, the one in its hands included


class Background(ThreadPoolExecutor):
    """Calls functions in threads; use it in a `with`, which ends when all calls have.

    What a call raises is raised by a later `add` or `settle`, or at the end of the block. After an
    exception in the block, calls that still wait are dropped.
    """

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads, thread_name_prefix="background")
        self._calls: deque[Future[Any]] = deque()
        self._most = threads * QUEUE

    def add(self, function: Callable[..., Any], *args: Any) -> None:
        """Have `function(*args)` called soon; waits while the queue is full."""
        if len(self._calls) == self._most:
            self._calls.popleft().result()
        self._calls.append(self.submit(function, *args))

    def settle(self) -> None:
        """Wait for all calls so far."""
        while self._calls:
            self._calls.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.shutdown(cancel_futures=kind is not None)
        if kind is None:
            self.settle()
