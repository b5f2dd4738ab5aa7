"""The results of a test on disk: files of what the model made, and a page to look at them.

The files are written while the next images are computed, by a few threads behind a short queue.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import torch

from util.background import Background
from util.devices import HostCopy
from util.distributed import NoOp, print0
from util.errors import UserError, one_line
from util.files import atomic_write, explain_write_errors, remove_unfinished
from util.reports import html
from util.reports.wandb_log import WandbLog
from util.util import save_image, to_uint8

LONGEST = 255  # bytes of a file name, on most disks
THREADS = 4  # PIL compresses outside of Python's lock, so that threads run at once
REMEDY = "choose another --results_dir"
WRITTEN = ".written_by_test"  # the names of the files that a test has written


class Results(ExitStack):
    """Writes the results of a test to a folder, and `index.html`; use it in a `with`.

    They are `images/{name}_{visual}` with a suffix. What a browser cannot show also has a picture
    in `shown/`. With --only_output there is `{name}` with a suffix, what the model made, and no
    page. `outputs` (data/outputs.py) has the names and the formats. What an earlier test wrote to
    the folder is removed. A UserError may be raised by a later `add`, or at the end of the block.
    """

    def __init__(self, opt: argparse.Namespace, folder: Path, outputs: Any):
        super().__init__()
        self.folder, self.opt, self.outputs, self.count = folder, opt, outputs, 0
        self.files = self.enter_context(OwnFiles(folder))
        self._taken: set[str] = set()  # names of files
        self._left_out: set[str] = set()  # visuals that are no images
        self.wandb = WandbLog(opt) if opt.use_wandb else NoOp()
        self.callback(self.wandb.close)
        self.page: ResultsPage | NoOp = NoOp()
        if not opt.only_output:
            title = f"{opt.name}, {opt.phase}, epoch {opt.epoch}"
            self.page = ResultsPage(folder, title, opt.display_winsize)
            self.enter_context(self.page)
        # closed before the page, which is put in place only if all images are on disk
        self.threads = self.enter_context(Background(THREADS))

    def add(self, paths: Sequence[str], visuals: Mapping[str, Any]) -> None:
        """Write the visuals of a batch, (N, C, H, W) in [-1, 1]; each path names a row.

        N may be larger than the number of paths: what is beyond only fills up the batch.
        """
        chosen = self._chosen(visuals)
        images = {name: Visual(name, v, self.opt, self.outputs) for name, v in chosen.items()}
        if not self.count and not self.opt.only_output:
            self.files.add(["index.html", "test_opt.txt", "test_opt.json"])
        for index, path in enumerate(paths):
            name, files = self._unused(self.outputs.name(path), images)
            self.files.add(chain.from_iterable(files.values()))
            for visual, names in files.items():
                self.threads.add(images[visual].write, index, self.folder, names)
            self.page.add(name, {visual: names[-1] for visual, names in files.items()})
            self.count += 1
            if self.wandb:
                shown = {visual: image.shown.numpy()[index] for visual, image in images.items()}
                self.wandb.add(self.count, shown)

    def _chosen(self, visuals: Mapping[str, Any]) -> dict[str, Any]:
        """Those visuals that are written: images; with --only_output what the model made."""
        chosen = {name: value for name, value in visuals.items() if _is_image(value)}
        for name in visuals.keys() - chosen.keys() - self._left_out:
            print0(f"{name} is left out of the results: it is no image (N, C, H, W)")
            self._left_out.add(name)
        if not self.opt.only_output:
            return chosen
        made = {name: value for name, value in chosen.items() if name.startswith("fake")}
        return made or {k: value for k, value in chosen.items() if not k.startswith("real")}

    def _unused(
        self, name: str, images: "Mapping[str, Visual]"
    ) -> tuple[str, dict[str, list[str]]]:
        """`name`, with a number where its files would replace those of another image; its files.

        A long one is cut, since `_fake.png` comes behind it.
        """
        # as with 1.jpg and 1.png, and x_real.png with the visual A, x.png with real_A
        path, number = PurePath(name), 1
        longest = max((len(f"_12345678_{visual}.png") for visual in images), default=0)
        free = stem = str(path.with_name(_shortened(path.name, LONGEST - longest)))
        while True:
            files = {visual: self._files(free, visual, images) for visual in images}
            names = set(chain.from_iterable(files.values()))
            if self._taken.isdisjoint(names):
                self._taken.update(names)
                return free, files
            number += 1
            free = f"{stem}_{number}"

    def _files(self, name: str, visual: str, images: "Mapping[str, Visual]") -> list[str]:
        """The files of a visual, relative to the folder: what it is, and what the page shows."""
        suffix = images[visual].format.suffix
        if self.opt.only_output:
            return [f"{visual}/{name}{suffix}" if len(images) > 1 else name + suffix]
        file = f"images/{name}_{visual}{suffix}"
        viewable = images[visual].format.viewable
        return [file] if viewable else [file, f"shown/{name}_{visual}.png"]


class Visual:
    """One visual of a batch on its way to files."""

    def __init__(self, name: str, images: Any, opt: argparse.Namespace, outputs: Any) -> None:
        if not isinstance(images, torch.Tensor):  # an (H, W, 3) array of a model of yours
            images = to_uint8(images).movedim(-1, 1) / 127.5 - 1
        images = images if images.dim() == 4 else images[None]
        self.format, self.aspect_ratio = outputs.format(name, images.shape[1]), opt.aspect_ratio
        self.values = HostCopy(self.format.encode(images))
        if self.format.viewable:
            self.shown = self.values
        else:
            limits = outputs.kind(name).shown
            self.shown = HostCopy(to_uint8(images, opt.show_bands, limits))

    def write(self, index: int, folder: Path, names: Sequence[str]) -> None:
        """Write image `index` of the batch, and what the page shows of it if that is another."""
        values, *shown = (folder / name for name in names)
        with explain_write_errors(values, REMEDY):
            for path in (values, *shown):
                path.parent.mkdir(parents=True, exist_ok=True)
        if self.format.viewable and self.aspect_ratio != 1:
            save_image(self.values.numpy()[index], str(values), self.aspect_ratio)
        else:
            self.format.write(str(values), self.values.numpy()[index])
        for path in shown:
            save_image(self.shown.numpy()[index], str(path), self.aspect_ratio)


def _is_image(value: Any) -> bool:
    dims = getattr(value, "ndim", 0)
    return dims in (3, 4) and 0 not in value.shape


def _shortened(stem: str, most: int) -> str:
    """The first `most` bytes of a file name, or a few less: no character is cut."""
    while len(os.fsencode(stem)) > most:
        stem = stem[:-1]
    return stem


class OwnFiles(ExitStack):
    """The files that a test writes to its folder, listed there.

    Those of an earlier test are removed when the first of this one are listed. UserError if other
    files lie among them: results must not be mixed, nor somebody's files be removed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        with explain_write_errors(folder, REMEDY):
            folder.mkdir(parents=True, exist_ok=True)
            self._earlier: list[PurePath] | None = self._listed()
            there = [path for path in folder.rglob("*") if path.is_file()]
        own = {folder / path for path in self._earlier} | {*folder.glob("test_opt.*")}
        foreign = [path for path in there if path not in own and not path.name.startswith(".")]
        if foreign:
            raise UserError(
                f"{one_line(folder)} holds {len(foreign)} files that no test has listed, as "
                f"{one_line(foreign[0].relative_to(folder))}; move them, or {REMEDY}"
            )

    def _listed(self) -> list[PurePath]:
        """The files of an earlier test, relative to the folder and in it."""
        try:
            with open(self.folder / WRITTEN, encoding="utf-8") as lines:
                found = [PurePath(json.loads(line)) for line in lines if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [path for path in found if not path.is_absolute() and ".." not in path.parts]

    def add(self, names: Iterable[str]) -> None:
        """List files, relative to the folder, that are written next."""
        with explain_write_errors(self.folder / WRITTEN, REMEDY):
            if self._earlier is not None:
                self._remove(self._earlier)
                self._earlier = None
                self._list = self.enter_context(open(self.folder / WRITTEN, "w", encoding="utf-8"))
            self._list.writelines(json.dumps(name) + "\n" for name in names)
            self._list.flush()

    def _remove(self, paths: Sequence[PurePath]) -> None:
        """Remove files, and the folders that are empty then."""
        for path in paths:
            (self.folder / path).unlink(missing_ok=True)
        for above in sorted({above for path in paths for above in path.parents}, reverse=True):
            remove_unfinished(self.folder / above)
            with suppress(OSError):
                (self.folder / above).rmdir()
        if paths:
            print0(f"the results of an earlier test in {one_line(self.folder)} are removed")


class ResultsPage(ExitStack):
    """`index.html` of a test: one row per tested image. Use it in a `with`.

    Rows go to a temporary file as they come, so memory does not grow with their number; the page
    appears, whole, at the end of the block, without an exception. A folder that cannot be written
    is a UserError. `image_size`: width of the images, in CSS pixels.
    """

    def __init__(self, folder: Path, title: str, image_size: int = 256) -> None:
        super().__init__()
        self.folder, self.title, self.image_size, self.count = folder, title, image_size, 0
        self._errors = partial(explain_write_errors, folder, REMEDY)
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._rows = tempfile.TemporaryFile("w+", dir=folder)

    def add(self, name: str, images: Mapping[str, str]) -> None:
        """Add a row with this heading; `images` is label to file name, relative to the folder."""
        cells = [(label, html.percent_encoded(file)) for label, file in images.items()]
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
