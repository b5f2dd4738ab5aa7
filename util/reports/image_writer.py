"""Pictures to disk while the next ones are computed: a few threads behind a short queue."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from util.util import save_image

THREADS = 4  # PIL compresses outside of Python's lock, so that threads run at once
QUEUE = 4  # pictures for each thread, the one in its hands included


class HostCopy:
    """A tensor on its way to main memory; a GPU copies while Python goes on."""

    def __init__(self, tensor: Tensor) -> None:
        """Start to copy `tensor`; what is done to it later is not seen."""
        self._arrived = None
        self._host = tensor.to("cpu", non_blocking=tensor.is_cuda)  # into pinned memory
        if tensor.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def numpy(self) -> np.ndarray:
        """The values; waits for them, and may be called from any thread."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.numpy()


class PictureWriter:
    """Writes pictures in threads; use it in a `with`, which ends when all are on disk.

    At most `threads * QUEUE` pictures wait or are written at a time: `add` waits for a place, so
    memory does not grow with their number. After an exception in the block, what still waits is
    dropped.

    Args:
        aspect_ratio: as for `save_image`.
        threads: how many write at once; None for as many as pay here.
    """

    def __init__(self, aspect_ratio: float = 1.0, threads: int | None = None) -> None:
        """Start no thread yet: the pool does when there is something to write."""
        threads = threads or min(THREADS, os.cpu_count() or 1)
        self.aspect_ratio = aspect_ratio
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="picture")
        self._places = threading.BoundedSemaphore(threads * QUEUE)
        self._error: BaseException | None = None

    def add(self, pictures: HostCopy, paths: Sequence[Path]) -> None:
        """Have pictures written, soon.

        Args:
            pictures: (N, H, W, 3) uint8.
            paths: where to, one for each of the first pictures; their suffix decides the format.

        Raises:
            UserError: this or an earlier picture cannot be written.
        """
        for index, path in enumerate(paths):
            self._places.acquire()
            self._raise_error()
            self._pool.submit(self._write, pictures, index, path).add_done_callback(self._done)

    def _write(self, pictures: HostCopy, index: int, path: Path) -> None:
        if self._error is None:  # after the first error the rest is only cleared away
            save_image(pictures.numpy()[index], str(path), self.aspect_ratio)

    def _done(self, task: Future) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._error = self._error or task.exception()
        self._places.release()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "PictureWriter":
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Wait until all is written; raises what went wrong, unless something did already."""
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._raise_error()
