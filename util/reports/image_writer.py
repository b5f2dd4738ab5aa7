"""Images to disk while the next ones are computed: a few threads behind a short queue."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from util.util import save_image

THREADS = 4  # PIL compresses outside of Python's lock, so that threads run at once
QUEUE = 4  # images for each thread, the one in its hands included


class HostCopy:
    """A tensor on its way to main memory; a GPU copies while Python continues."""

    def __init__(self, tensor: Tensor) -> None:
        self._arrived = torch.cuda.Event() if tensor.is_cuda else None
        self._host = tensor.to("cpu", non_blocking=tensor.is_cuda)  # into pinned memory
        if self._arrived:
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def numpy(self) -> np.ndarray:
        """The values; waits for them, and may be called from any thread."""
        if self._arrived:
            self._arrived.synchronize()
        return self._host.numpy()


class ImageWriter(ThreadPoolExecutor):
    """Writes images in threads; use it in a `with`, which ends when all are on disk.

    After an exception in the block, what still waits is dropped.
    """

    def __init__(self, aspect_ratio: float = 1.0) -> None:
        super().__init__(THREADS, thread_name_prefix="image")
        self.aspect_ratio = aspect_ratio
        self._writing: deque[Future[None]] = deque()

    def add(self, images: HostCopy, paths: Sequence[Path]) -> None:
        """Have the first of `images`, (N, H, W, 3) uint8, written to `paths`, soon.

        Waits while the queue is full, so that memory does not grow with the number of images.
        UserError if an earlier image cannot be written.
        """
        for index, path in enumerate(paths):
            if len(self._writing) == THREADS * QUEUE:
                self._writing.popleft().result()
            self._writing.append(self.submit(self._write, images, index, path))

    def _write(self, images: HostCopy, index: int, path: Path) -> None:
        save_image(images.numpy()[index], str(path), self.aspect_ratio)

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self.shutdown(cancel_futures=kind is not None)
        while kind is None and self._writing:
            self._writing.popleft().result()
