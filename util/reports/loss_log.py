"""The losses on disk: loss_log.txt in the original's line format, and losses.csv."""

import csv
import io
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from util.errors import one_line
from util.files import atomic_write, encoded, explain_write_errors

CONTINUED = ", continued"  # in the heading of a start that went on
COUNTERS = ("epoch", "iters", "total_iters", "time", "data")


class LossLog:
    """Appends to `loss_log.txt` and `losses.csv` in the experiment's folder.

    loss_log.txt gets a new heading for each start, as in the original. losses.csv is one table of
    one run. Where a run goes on, lines from beyond that place are taken out of both, the table's
    with the first new row.

    Args:
        folder: the experiment's folder.
        resume_at: (epoch, images of it, images in all) seen when the run goes on; None: a new run.

    Raises:
        UserError: a file cannot be written; from every method.
    """

    def __init__(self, folder: Path, resume_at: tuple[int, int, int] | None = None):
        """Write the heading of this start."""
        self.text, self.table = Path(folder) / "loss_log.txt", Path(folder) / "losses.csv"
        self.resume_at = resume_at[2] if resume_at else None
        self.columns: list[str] = []  # none until the first row
        if resume_at:
            self._take_out_lines(resume_at[:2])
        continued = CONTINUED if resume_at else ""
        heading = f" Training Loss ({time.strftime('%c')}{continued}) "
        self._append(self.text, f"{'=' * 16}{heading}{'=' * 16}\n")

    def add(
        self,
        epoch: int,
        iters: int,
        total_iters: int,
        seconds: float,
        waited: float,
        losses: Mapping[str, float],
    ) -> str:
        """Log one set of losses.

        Args:
            epoch: counted from 1.
            iters: images seen in this epoch.
            total_iters: images seen in all.
            seconds: computing time per image.
            waited: time spent waiting for data, per image.
            losses: name to value.

        Returns:
            The line of loss_log.txt.
        """
        line = f"(epoch: {epoch}, iters: {iters}, time: {seconds:.3f}, data: {waited:.3f}) "
        line += " ".join(f"{one_line(name)}: {value:.3f}" for name, value in losses.items())
        self._append(self.text, line + "\n")
        counters = (epoch, iters, total_iters, f"{seconds:.6f}", f"{waited:.6f}")
        row = dict(zip(COUNTERS, counters, strict=True)) | dict(losses)
        if not self.columns:
            self._start_table(list(row))
        self._append(self.table, _as_csv([row], self.columns))
        return line

    def flush(self) -> None:
        """Wait until the disk has what was logged, before it has a checkpoint from after that."""
        for path in (self.text, self.table):
            if path.exists():
                with explain_write_errors(path), open(path, "rb") as file:
                    os.fsync(file.fileno())

    def _take_out_lines(self, place: tuple[int, int]) -> None:
        """Remove the lines of the run that are from beyond `place`, (epoch, images of it)."""
        if not self.text.exists():
            return
        with explain_write_errors(self.text):
            lines = self.text.read_bytes().splitlines(keepends=True)
        starts = [i for i, line in enumerate(lines) if _is_heading(line)]
        first = max((i for i in starts if CONTINUED.encode() not in lines[i]), default=0)
        kept = lines[:first]
        for line in lines[first:]:
            if _is_heading(line) and len(kept) > first + 1 and _is_heading(kept[-1]):
                kept.pop()  # a start that has logged nothing which is left
            if _is_heading(line) or _place(line) <= place:
                kept.append(line)
        with explain_write_errors(self.text), atomic_write(self.text) as file:
            file.writelines(kept)

    def _start_table(self, columns: list[str]) -> None:
        """Keep the rows before the run; they may have other losses than this run has."""
        if self.resume_at is None and self.table.exists():  # of an earlier run
            with explain_write_errors(self.table):
                os.replace(self.table, self.table.with_name("previous_losses.csv"))
        kept = self._rows_before(self.resume_at) if self.resume_at is not None else []
        self.columns = list(dict.fromkeys([*(kept[0] if kept else ()), *columns]))
        header = {name: name for name in self.columns}
        with explain_write_errors(self.table), atomic_write(self.table) as file:
            file.write(encoded(_as_csv([header, *kept], self.columns)))

    def _rows_before(self, total_iters: int) -> list[dict[str, str]]:
        if not self.table.exists():
            return []
        with (
            explain_write_errors(self.table),
            open(self.table, newline="", encoding="utf-8", errors="replace") as file,
        ):
            rows = list(_rows(file))
        return [row for row in rows if _number(row.get("total_iters")) <= total_iters]

    @staticmethod
    def _append(path: Path, text: str) -> None:
        with explain_write_errors(path), open(path, "ab") as file:
            file.write(encoded(text))


def _is_heading(line: bytes) -> bool:
    return line.startswith(b"=====")


def _place(line: bytes) -> tuple[float, float]:
    """(epoch, images of it) of a line of losses; beyond all places where it is damaged."""
    found = re.match(rb"\(epoch: (\d{1,9}), iters: (\d{1,12}), ", line)
    whole = found and line.endswith(b"\n")
    return (int(found[1]), int(found[2])) if whole else (math.inf, math.inf)


def _as_csv(rows: list[dict], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows(file: TextIO) -> Iterator[dict[str, str]]:
    """The rows of a table that are as long as its header."""
    lines = _readable(csv.reader(file))
    header = next(lines, [])
    yield from (dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header))


def _readable(table: Iterator[list[str]]) -> Iterator[list[str]]:
    """Without the lines that are no CSV, as a crash of the machine leaves some."""
    while True:
        try:
            yield next(table)
        except csv.Error:
            continue
        except StopIteration:
            return


def _number(text: str | None) -> float:
    """A count; infinite where a row is damaged."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text or "") else float("inf")
