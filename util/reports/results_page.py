"""The results of a test on disk: one image file per tested image and visual, and the page.

The images are written while the next ones are computed, by a few threads behind a short queue.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from util.background import Background
from util.devices import HostCopy
from util.distributed import NoOp
from util.files import atomic_write, explain_write_errors
from util.reports import html
from util.reports.wandb_log import WandbLog
from util.util import save_image, to_uint8

LONGEST = 255  # bytes of a file name, on most disks
THREADS = 4  # PIL compresses outside of Python's lock, so that threads run at once


class Results(ExitStack):
    """Writes `images/<stem>_<visual>.png` and `index.html` to a folder; use it in a `with`.

    A UserError may be raised by a later `add`, or at the end of the block.
    """

    def __init__(self, opt: argparse.Namespace, folder: Path):
        super().__init__()
        self.folder, self.aspect_ratio = folder, opt.aspect_ratio
        self._taken: set[str] = set()  # names of files
        self.wandb = WandbLog(opt) if opt.use_wandb else NoOp()
        self.callback(self.wandb.close)
        title = f"{opt.name}, {opt.phase}, epoch {opt.epoch}"
        self.page = self.enter_context(ResultsPage(folder, title, opt.display_winsize))
        # closed before the page, which is put in place only if all images are on disk
        self.threads = self.enter_context(Background(THREADS))

    def add(self, paths: Sequence[str], visuals: Mapping[str, Any]) -> None:
        """Write the visuals of a batch, (N, C, H, W) in [-1, 1]; each path names a row.

        N may be larger than the number of paths: what is beyond only fills up the batch.
        """
        copies = {name: HostCopy(to_uint8(visual)) for name, visual in visuals.items()}
        stems = [self._unused(Path(path).stem, list(copies)) for path in paths]
        for index, stem in enumerate(stems):
            for name, copy in copies.items():
                self.threads.add(self._write, copy, index, f"{stem}_{name}.png")
            self.page.add(stem, {name: f"{stem}_{name}.png" for name in copies})
            if self.wandb:
                shown = {name: copy.numpy()[index] for name, copy in copies.items()}
                self.wandb.add(self.page.count, shown)

    def _write(self, images: HostCopy, index: int, name: str) -> None:
        path = self.folder / "images" / name
        save_image(images.numpy()[index], str(path), self.aspect_ratio)

    def _unused(self, stem: str, visuals: Sequence[str]) -> str:
        """`stem`, with a number where its files would replace those of another image.

        A long one is cut, since `_fake.png` comes behind it.
        """
        # as with 1.jpg, 1.png and sub/1.jpg, and x_real.png with the visual A, x.png with real_A
        free = stem = _shortened(stem, LONGEST - max(len(f"_12345678_{v}.png") for v in visuals))
        number = 1
        while not self._taken.isdisjoint(names := [f"{free}_{visual}.png" for visual in visuals]):
            number += 1
            free = f"{stem}_{number}"
        self._taken.update(names)
        return free


def _shortened(stem: str, most: int) -> str:
    """The first `most` bytes of a file name, or a few less: no character is cut."""
    while len(os.fsencode(stem)) > most:
        stem = stem[:-1]
    return stem


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
