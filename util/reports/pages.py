"""The pages that training and testing leave behind: files that a browser opens from disk.

A training page is a shell, `index.html`, written once per start, and `data.js`, which grows by one
line per update; so an update costs the same in epoch 1000 as in epoch 1. A page of results is
written row by row. Neither needs a server or a network, and the only scripts that a page may run
are its own (its Content-Security-Policy carries their hashes).

File names, options and loss names may hold anything: jinja2 escapes them in HTML, in `data.js` they
are JSON, and in addresses they are percent-encoded.
"""

import base64
import errno
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from PIL import Image

from util.errors import one_line
from util.files import atomic_write, explain_write_errors

if TYPE_CHECKING:
    import jinja2
    import markupsafe

ASSETS = Path(__file__).parent / "assets"
LONGEST_ENTRY = 1 << 20  # bytes of a line of data.js
LOG = logging.getLogger("image_translation")


class TrainingPage:
    """`web/index.html`: the loss curves and, per epoch, the visuals, newest first.

    A write that fails during training (disk full, folder deleted) is logged once and training
    goes on.

    Args:
        web_dir: folder of the page; made if missing.
        title: heading of the page.
        options: shown as a table of names and values.
        image_size: width of the images on the page, in CSS pixels.
        resume_at: images seen when training goes on: earlier entries stay, later ones are
            dropped. None starts the page afresh.
        refresh_seconds: how often an open page looks for new entries.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(
        self,
        web_dir: str | os.PathLike[str],
        title: str,
        options: Mapping[str, object] | None = None,
        image_size: int = 256,
        resume_at: int | None = None,
        refresh_seconds: float = 30,
    ) -> None:
        """Write the shell, and start or mend data.js."""
        self.folder = Path(web_dir)
        self._failed = False
        with explain_write_errors(self.folder, "turn the page off with --no_html"):
            (self.folder / "images").mkdir(parents=True, exist_ok=True)
            _keep_entries(self.folder / "data.js", resume_at)
            with atomic_write(self.folder / "index.html") as file:
                file.write(_training_shell(title, options or {}, image_size, refresh_seconds))

    def add_losses(self, epoch: int, total_iters: int, losses: Mapping[str, float]) -> None:
        """Add a point to each curve; a loss that is not finite makes a gap in its curve."""
        pairs = [[name, _number(value)] for name, value in losses.items()]
        with self._going_on():
            self._append({"epoch": epoch, "total_iters": total_iters, "losses": pairs})

    def add_visuals(
        self,
        epoch: int,
        total_iters: int,
        visuals: Mapping[str, np.ndarray],
        captions: Sequence[str] = (),
    ) -> None:
        """Show the images of an epoch in place of any that it showed before.

        Args:
            epoch: counted from 1.
            total_iters: images seen so far.
            visuals: label to uint8 image (H, W, 3); kept as `images/epoch001_label.png`.
            captions: lines of text beside the epoch's number, such as the paths of the images.
        """
        with self._going_on():
            pairs = [[name, self._save(epoch, name, image)] for name, image in visuals.items()]
            entry = {"epoch": epoch, "total_iters": total_iters, "visuals": pairs}
            self._append(entry | {"captions": list(captions)})

    def _save(self, epoch: int, name: str, image: np.ndarray) -> str:
        """Write one image; returns its address as seen from the page."""
        stem = _percent_encoded(name, safe="")  # so that "a/b" is a file, and not that of "a_b"
        file_name = f"epoch{epoch:03d}_{stem}.png"
        with atomic_write(self.folder / "images" / file_name) as file:
            Image.fromarray(image).save(file, format="PNG")
        return f"images/{_percent_encoded(file_name)}"

    def _append(self, entry: Mapping[str, object]) -> None:
        from jinja2.utils import htmlsafe_json_dumps

        _append_line(self.folder / "data.js", f"add({htmlsafe_json_dumps(entry)});\n".encode())

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """A page is not worth a training: say once that it cannot be written, and go on."""
        try:
            yield
        except OSError as error:
            if not self._failed:
                message = "%s was not updated (%s); training goes on"
                LOG.warning(message, one_line(self.folder), one_line(error))
            self._failed = True


class ResultsPage:
    """`index.html` of a test: one row per tested image. Close it, or use it in a `with`.

    Rows go to a temporary file as they come, so memory does not grow with their number; the page
    appears, whole, when it is closed. After an exception inside the `with` there is no new page.

    Args:
        folder: folder of the page, with the images in its `images/`; made if missing.
        title: heading of the page.
        image_size: width of the images on the page, in CSS pixels.

    Raises:
        UserError: the folder cannot be written; from every method.
    """

    def __init__(self, folder: str | os.PathLike[str], title: str, image_size: int = 256) -> None:
        """Start the temporary file."""
        self.folder = Path(folder)
        self.image_size = image_size
        self.rows = 0
        self._part = self.folder / "index.html.part"
        with self._errors():
            (self.folder / "images").mkdir(parents=True, exist_ok=True)
            self._file = open(self._part, "wb")
            self._write("head", title, _markup("page.css"), _policy())

    def add(self, name: str, images: Mapping[str, str]) -> None:
        """Add a row.

        Args:
            name: its heading, usually the name or path of the tested image.
            images: label to file name, relative to `images/`.
        """
        cells = [(label, f"images/{_percent_encoded(file)}") for label, file in images.items()]
        with self._errors():
            self._write("row", name, cells, self.image_size)
        self.rows += 1

    def close(self) -> None:
        """Finish the page and put it in its place."""
        with self._errors():
            self._write("foot", self.rows)
            self._file.close()
            os.replace(self._part, self.folder / "index.html")

    def __enter__(self) -> "ResultsPage":
        """The page itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Close the page, or drop it after an exception."""
        if error is None:
            self.close()
        else:
            self._discard()

    def _discard(self) -> None:
        with suppress(OSError):  # the exception on its way matters more
            self._file.close()
            self._part.unlink()

    def _write(self, macro: str, *arguments: object) -> None:
        html = getattr(_template("results.html").module, macro)(*arguments)
        self._file.write(_encoded(html))

    def _errors(self) -> AbstractContextManager[None]:
        return explain_write_errors(self.folder, "choose another place with --results_dir")


# ---- writing ---------------------------------------------------------------------------------


def _append_line(path: Path, line: bytes) -> None:
    """Append in a single write, all of the line or nothing."""
    with open(path, "r+b", buffering=0) as file:  # not "ab": half a page would mislead
        end = file.seek(0, os.SEEK_END)
        if file.write(line) < len(line):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _keep_entries(path: Path, last: int | None) -> None:
    """Keep the lines of data.js up to `last` images seen (None: no line), and no damaged line."""
    keep = last is not None and path.exists()
    with atomic_write(path) as new, open(path if keep else os.devnull, "rb") as old:
        pieces = iter(lambda: old.readline(LONGEST_ENTRY), b"")  # a longer line is not one of ours
        new.writelines(line for line in pieces if _images_seen(line) <= last)


def _images_seen(line: bytes) -> float:
    """`total_iters` of a line of data.js; infinite where the line is damaged."""
    text = re.fullmatch(rb"add\((.*)\);\n", line)
    try:
        entry = json.loads(text[1]) if text else None
    except (ValueError, RecursionError):
        return math.inf
    return entry["total_iters"] if _is_entry(entry) else math.inf


def _is_entry(entry: object) -> bool:
    """Whether it is what the page can draw."""
    return (
        isinstance(entry, dict)
        and "__proto__" not in entry  # would be another object to JavaScript than it is here
        and _are_counts(entry.get("epoch"), entry.get("total_iters"))
        and _are_pairs(entry.get("losses", []), (int, float, type(None)))
        and _are_pairs(entry.get("visuals", []), str)
        and all(address.startswith("images/") for _, address in entry.get("visuals", []))
        and ("visuals" not in entry or _are_texts(entry.get("captions")))
    )


def _are_counts(*numbers: object) -> bool:
    return all(type(number) is int and 0 <= number < 2**53 for number in numbers)  # exact in JS


def _are_texts(texts: object) -> bool:
    return isinstance(texts, list) and all(isinstance(text, str) for text in texts)


def _are_pairs(pairs: object, kind: type | tuple[type, ...]) -> bool:
    """Whether it is a list of [name, value]."""
    return isinstance(pairs, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], kind)
        for pair in pairs
    )


# ---- text ------------------------------------------------------------------------------------


def _number(value: float) -> float | None:
    """Six digits are plenty for a curve; JSON has no NaN or infinity."""
    return float(f"{float(value):.6g}") if math.isfinite(value) else None


def _percent_encoded(name: str, safe: str = "/") -> str:
    return quote(os.fsencode(name), safe=safe)  # fsencode: names that are no valid Unicode, too


def _encoded(html: str) -> bytes:
    return html.encode("utf-8", "replace")


@cache
def _template(name: str) -> "jinja2.Template":
    import jinja2

    loader = jinja2.FileSystemLoader(ASSETS)
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).get_template(name)


def _markup(*names: str) -> "markupsafe.Markup":
    """Files of our own as they are, in this order."""
    from markupsafe import Markup

    return Markup("\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names))


def _policy(*scripts: str) -> str:
    """Content-Security-Policy: these inline scripts, and files that lie beside the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts]
    allowed = [f"'sha256-{digest.decode()}'" for digest in hashes] + ["'self'", "file:"]
    script_src = " ".join(allowed) if scripts else "'none'"
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"img-src 'self' file:; script-src {script_src}"
    )


def _training_shell(
    title: str, options: Mapping[str, object], image_size: int, refresh_seconds: float
) -> bytes:
    scripts = [_markup("uplot/uPlot.iife.min.js"), _markup("training.js")]
    html = _template("training.html").render(
        title=title,
        options=options,
        image_size=image_size,
        refresh_seconds=refresh_seconds,
        css=_markup("uplot/uPlot.min.css", "page.css"),
        scripts=scripts,
        licence=_markup("uplot/LICENSE"),
        policy=_policy(*scripts),
    )
    return _encoded(html)
