"""The results of a test on disk: one image file per tested image and visual, and the page.

The images are written while the next ones are computed, by a few threads behind a short queue.
"""

import argparse
import json
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from util.distributed import NoOp
from util.files import atomic_write, explain_write_errors
from util.reports import html
from util.reports.wandb_log import WandbLog
from util.util import save_image, tensor2im, to_uint8

THREADS = 4  # PIL compresses outside of Python's lock, so that threads run at once
QUEUE = 4  # images for each thread, the one in its hands included


class Results(ExitStack):
    """Writes `images/<stem>_<visual>.png` and `index.html` to a folder; use it in a `with`.

    A UserError may be raised by a later `add`, or at the end of the block.
    """

    def __init__(self, opt: argparse.Namespace, folder: Path):
        super().__init__()
        self.folder = folder
        self._taken: set[str] = set()  # names of files
        self.wandb = WandbLog(opt) if opt.use_wandb else NoOp()
        self.callback(self.wandb.close)
        title = f"{opt.name}, {opt.phase}, epoch {opt.epoch}"
        self.page = self.enter_context(ResultsPage(folder, title, opt.display_winsize))
        # closed before the page, which is put in place only if all images are on disk
        self.writer = self.enter_context(ImageWriter(opt.aspect_ratio))

    def add(self, paths: Sequence[str], visuals: Mapping[str, Any]) -> None:
        """Write the visuals of a batch, (N, C, H, W) in [-1, 1]; each path names a row.

        N may be larger than the number of paths: what is beyond only fills up the batch.
        """
        copies = {name: HostCopy(_images(visual)) for name, visual in visuals.items()}
        stems = [self._unused(Path(path).stem, list(copies)) for path in paths]
        for name, copy in copies.items():
            self.writer.add(copy, [self.folder / "images" / f"{s}_{name}.png" for s in stems])
        for index, stem in enumerate(stems):
            self.page.add(stem, {name: f"{stem}_{name}.png" for name in copies})
            if self.wandb:
                shown = {name: copy.numpy()[index] for name, copy in copies.items()}
                self.wandb.add(self.page.count, shown)

    def _unused(self, stem: str, visuals: Sequence[str]) -> str:
        """`stem`, with a number where its files would replace those of another image."""
        # as with 1.jpg, 1.png and sub/1.jpg, and x_real.png with the visual A, x.png with real_A
        free, number = stem, 1
        while not self._taken.isdisjoint(names := [f"{free}_{visual}.png" for visual in visuals]):
            number += 1
            free = f"{stem}_{number}"
        self._taken.update(names)
        return free


def _images(visual: Any) -> torch.Tensor:
    """(N, H, W, 3) uint8; people's own models may show a (C, H, W) tensor or a numpy image."""
    if isinstance(visual, torch.Tensor) and visual.dim() == 4:
        return to_uint8(visual)
    return torch.from_numpy(tensor2im(visual))[None]


class HostCopy:
    """A tensor on its way to main memory; a GPU copies while Python continues."""

    def __init__(self, tensor: torch.Tensor) -> None:
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

        Waits while the queue is full; UserError if an earlier image cannot be written.
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


class ResultsPage(ExitStack):
    """`index.html` of a test: one row per tested image. Use it in a `with`.

    Rows go to a temporary file as they come, so memory does not grow with their number; the page
    appears, whole, at the end of the block, without an exception. A folder that cannot be written
    is a UserError. `image_size`: width of the images, in CSS pixels.
    """

    def __init__(self, folder: Path, title: str, image_size: int = 256) -> None:
        super().__init__()
        self.folder, self.title, self.image_size, self.count = folder, title, image_size, 0
        self._errors = partial(explain_write_errors, folder, "choose another --results_dir")
        with self._errors():
            (folder / "images").mkdir(parents=True, exist_ok=True)
            self._rows = tempfile.TemporaryFile("w+", dir=folder)

    def add(self, name: str, images: Mapping[str, str]) -> None:
        """Add a row with this heading; `images` is label to file name, relative to `images/`."""
        cells = [(label, f"images/{html.percent_encoded(file)}") for label, file in images.items()]
        with self._errors():
            print(json.dumps([name, cells]), file=self._rows)
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        with self._errors(), self._rows:
            if kind is None:
                self._rows.seek(0)
                template = html.TEMPLATES.get_template("results.html")
                page = template.generate(vars(self), rows=map(json.loads, self._rows))
                with atomic_write(self.folder / "index.html") as file:
                    file.writelines(part.encode("utf-8", "replace") for part in page)
