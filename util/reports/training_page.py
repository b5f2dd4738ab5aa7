"""The page of a training run: loss curves and images, opened from disk, also while it trains.

`data.js` grows by one line per update, so that an update costs the same in epoch 1000 as in epoch
1; an open page reads it again from time to time.
"""

import errno
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from PIL import Image

from util.errors import one_line
from util.files import atomic_write, explain_write_errors
from util.reports import html

LOG = logging.getLogger("image_translation")
REFRESH_SECONDS = 30.0  # how often an open page looks for new entries
Options = Mapping[str, object]


class TrainingPage:
    """`web/index.html`: the loss curves and, per epoch, the visuals, newest first.

    A folder that cannot be written is a UserError at the start. During training (disk full, folder
    deleted) it is logged once, and training continues.

    Args:
        options: listed on the page; `display_winsize` is the width of its images, in CSS pixels.
        resume_at: images seen when training continues; later entries, and those of another run, are
            dropped. None: a new run.
        run: its id, if it has one.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        options: Options | None = None,
        resume_at: int | None = None,
        run: str = "",
    ) -> None:
        self.folder, self._failed = folder, False
        template = html.TEMPLATES.get_template("training.html")
        page = template.render(title=title, options=options or {}, refresh=REFRESH_SECONDS)
        with explain_write_errors(folder, "turn the page off with --no_html"):
            (folder / "images").mkdir(parents=True, exist_ok=True)
            _keep_entries(folder / "data.js", resume_at, run)
            with atomic_write(folder / "index.html") as file:
                file.write(page.encode("utf-8", "replace"))

    def add_losses(self, epoch: int, seen: int, losses: Mapping[str, float]) -> None:
        """Add a point to each curve, at `seen` images; a loss that is not finite makes a gap."""
        pairs = [[name, _number(value)] for name, value in losses.items()]
        with self._write_errors_logged():
            self._append(epoch, seen, losses=pairs)

    def add_visuals(
        self, epoch: int, seen: int, visuals: Mapping[str, np.ndarray], captions: Sequence[str] = ()
    ) -> None:
        """Show the images of an epoch, uint8 (H, W, 3), in place of those it showed before."""
        with self._write_errors_logged():
            pairs = [[name, self._save(epoch, name, image)] for name, image in visuals.items()]
            self._append(epoch, seen, visuals=pairs, captions=list(captions))

    def _save(self, epoch: int, name: str, image: np.ndarray) -> str:
        """Write one image; returns its address as seen from the page."""
        stem = html.percent_encoded(name, safe="")  # "a/b" is a file, and not that of "a_b"
        file_name = f"epoch{epoch:03d}_{stem}.png"
        with atomic_write(self.folder / "images" / file_name) as file:
            Image.fromarray(image).save(file, format="PNG")
        return f"images/{html.percent_encoded(file_name)}"

    def _append(self, epoch: int, seen: int, **what: object) -> None:
        """Append a line to data.js in a single write, all of it or nothing."""
        entry = {"epoch": epoch, "total_iters": seen, **what}
        line = f"add({htmlsafe_json_dumps(entry)});\n".encode()
        path = self.folder / "data.js"
        with open(path, "r+b", buffering=0) as file:  # not "ab": half a page would mislead
            end = file.seek(0, os.SEEK_END)
            if file.write(line) < len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    @contextmanager
    def _write_errors_logged(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._failed:
                message = "%s was not updated (%s); training continues"
                LOG.warning(message, one_line(self.folder), one_line(error))
            self._failed = True


def _number(value: float) -> float | None:
    """Six digits are plenty for a curve; JSON has no NaN or infinity."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


# A line of data.js as `_append` writes it; the browser refuses the file where one is damaged.
COUNT = r"(?:0|[1-9]\d{0,14})"
NUMBER = r"(?:null|-?(?:0|[1-9]\d{0,16})(?:\.\d{1,9})?(?:e[+-]\d{2,3})?)"
TEXT = r'"(?:[ !#-\[\]-~]|\\["\\bfnrt]|\\u[0-9a-f]{4})*"'
LOSS, VISUAL = rf"\[{TEXT}, {NUMBER}\]", rf'\[{TEXT}, "images/[\w.~%-]+"\]'
LIST = r"\[(?:{0}(?:, {0})*)?\]".format
LINE = re.compile(
    rf'add\({{"epoch": {COUNT}, "total_iters": ({COUNT}), (?:"losses": {LIST(LOSS)}|'
    rf'"visuals": {LIST(VISUAL)}, "captions": {LIST(TEXT)})}}\);\n'.encode()
)


def _keep_entries(path: Path, last: int | None, run: str) -> None:
    """Keep a run's lines of data.js up to `last` images seen (None: no line), no damaged one."""
    keep, head = last is not None and path.exists(), f"// run {run}\n".encode() if run else b""
    with atomic_write(path) as new, open(path if keep else os.devnull, "rb") as old:
        first = old.readline()
        own = [] if first.startswith(b"// run ") and first != head else chain([first], old)
        found = ((line, LINE.fullmatch(line)) for line in own)
        new.write(head)
        new.writelines(line for line, whole in found if whole and int(whole[1]) <= (last or 0))
