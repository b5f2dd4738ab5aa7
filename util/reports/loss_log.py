"""The losses on disk: loss_log.txt in the original's line format, and losses.csv."""

import csv
import io
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from util.errors import one_line
from util.files import atomic_write, encoded, explain_write_errors

Losses = Mapping[str, float]
RULE = "=" * 16  # around the heading of a start
HEADING = re.compile(rb"=====.*?(?:, run ([0-9a-f]{8}))?(, continued)?\) =")
LINE = re.compile(rb"(?:=====|\(epoch: (\d{1,9}), iters: (\d{1,12}), ).*\n")


class LossLog:
    """Appends to `loss_log.txt` and `losses.csv` in a folder; UserError if that cannot be done.

    loss_log.txt gets a new heading for each start, as in the original. losses.csv is one table of
    one run; that of another is kept as losses_{its run}.csv. Where a run continues at `resume_at`,
    (epoch, images of it, images in all) seen, its lines from beyond that are taken out of both, the
    table's with the first new row. `run`: 8 hexadecimal digits; what has none is from before 0.3.
    """

    def __init__(
        self, folder: Path, resume_at: tuple[int, int, int] | None = None, run: str = "0" * 8
    ) -> None:
        self.text, self.table, self.run = folder / "loss_log.txt", folder / "losses.csv", run
        self.resume_at = resume_at
        self.columns: list[str] = []  # none until the first row
        if resume_at and self.text.exists():
            self._cut_text(resume_at[:2])
        start = f"{time.strftime('%c')}, run {run}" + (", continued" if resume_at else "")
        glue = "\n" * _ends_in_half_a_line(self.text)
        _append(self.text, f"{glue}{RULE} Training Loss ({start}) {RULE}\n")

    def add(
        self, epoch: int, iters: int, total_iters: int, took: float, waited: float, losses: Losses
    ) -> str:
        """Log the losses, and seconds per image; returns the line of loss_log.txt."""
        named = {one_line(name): value for name, value in losses.items()}
        line = f"(epoch: {epoch}, iters: {iters}, time: {took:.3f}, data: {waited:.3f}) "
        line += " ".join(f"{name}: {value:.3f}" for name, value in named.items())
        _append(self.text, line + "\n")
        times = {"time": f"{took:.6f}", "data": f"{waited:.6f}"}
        place = {"epoch": epoch, "iters": iters, "total_iters": total_iters}
        row = {**place, **times, "run": self.run, **named}
        if not self.columns:
            self._start_table(list(row))
        _append(self.table, _as_csv([row], self.columns))
        return line

    def flush(self) -> None:
        """Wait until the disk has what was logged, before it has a checkpoint from after that."""
        for path in filter(Path.exists, (self.text, self.table)):
            with explain_write_errors(path), open(path, "rb") as file:
                os.fsync(file.fileno())

    def _cut_text(self, place: tuple[int, int]) -> None:
        """Remove the lines of this run that are from beyond `place`, (epoch, images of it)."""
        with explain_write_errors(self.text):
            lines = self.text.read_bytes().splitlines(keepends=True)
            headings = {n: found for n, line in enumerate(lines) if (found := HEADING.match(line))}
            last = max((n for n, found in headings.items() if not found[2]), default=0)
            own, kept = not headings, []
            for n, line in enumerate(lines):
                if n in headings:
                    run = headings[n][1]
                    own = run == self.run.encode() if run else n >= last
                if line.endswith(b"\n") and (not own or _place(line) <= place):
                    kept.append(line)
            with atomic_write(self.text) as file:
                file.writelines(kept)

    def _start_table(self, columns: list[str]) -> None:
        """Keep the rows before this start; they may have other losses than this run has."""
        kept: list[dict[str, str]] = []
        aside = self.table.with_name(f"losses_{self.run}.csv")
        with explain_write_errors(self.table):
            if self.table.exists():
                other = next(_rows_up_to(math.inf, self.table), {}).get("run") or ""
                other = other if re.fullmatch("[0-9a-f]{8}", other) else ""
                if not self.resume_at or other not in ("", self.run):
                    name = f"losses_{other}.csv" if other else "previous_losses.csv"
                    os.replace(self.table, self.table.with_name(name))
            for table in (aside, self.table):
                if self.resume_at and table.exists():
                    kept += _rows_up_to(self.resume_at[2], table)
            self.columns = list(dict.fromkeys(chain(*kept[:1], columns)))
            with atomic_write(self.table) as file:
                header = {name: name for name in self.columns}
                file.write(encoded(_as_csv([header, *kept], self.columns)))
            aside.unlink(missing_ok=True)


def _append(path: Path, text: str) -> None:
    with explain_write_errors(path), open(path, "ab") as file:
        file.write(encoded(text))


def _ends_in_half_a_line(path: Path) -> bool:
    with explain_write_errors(path):
        return path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")


def _place(line: bytes) -> tuple[float, ...]:
    """(epoch, images of it) of a line of losses; before all for a heading, after all if damaged."""
    found = LINE.fullmatch(line)
    return tuple(int(number or 0) for number in found.groups()) if found else (math.inf,)


def _as_csv(rows: Sequence[Mapping[str, object]], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows_up_to(total_iters: float, table: Path) -> Iterator[dict[str, str]]:
    """The rows up to that many images seen, without those that a crash has damaged."""
    header: list[str] = []
    with open(table, newline="", encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(csv.Error, ValueError, KeyError):
                cells = next(csv.reader([line]))
                header = header or cells
                row = dict(zip(header, cells, strict=True))
                if int(row["total_iters"]) <= total_iters:
                    yield row
