"""The losses on disk: loss_log.txt in the original's line format, and losses.csv."""

import csv
import io
import time
from collections.abc import Mapping
from pathlib import Path

from util.files import encoded, replacing, writing

COUNTERS = ("epoch", "iters", "total_iters", "time", "data")


class LossLog:
    """Appends to `loss_log.txt` and `losses.csv` in the experiment's folder.

    loss_log.txt gets a new heading for each run, as in the original. losses.csv is one table: its
    first row of a run replaces what an earlier run left from there on.

    Args:
        folder: the experiment's folder.
        resume_at: images seen when the run goes on; earlier rows stay. None: a new run.

    Raises:
        UserError: a file cannot be written; from every method.
    """

    def __init__(self, folder: Path, resume_at: int | None = None):
        """Write the heading of this run."""
        self.text, self.table = Path(folder) / "loss_log.txt", Path(folder) / "losses.csv"
        self.resume_at = resume_at
        self.columns: list[str] = []  # none until the first row
        heading = f" Training Loss ({time.strftime('%c')}) "
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
        line += " ".join(f"{name}: {value:.3f}" for name, value in losses.items())
        self._append(self.text, line + "\n")
        counters = (epoch, iters, total_iters, f"{seconds:.6f}", f"{waited:.6f}")
        row = dict(zip(COUNTERS, counters, strict=True)) | dict(losses)
        if not self.columns:
            self._start_table(list(row))
        self._append(self.table, _as_csv([row], self.columns))
        return line

    def _start_table(self, columns: list[str]) -> None:
        """Keep the rows before the run; they may have other losses than this run has."""
        kept = self._rows_before(self.resume_at) if self.resume_at is not None else []
        self.columns = list(dict.fromkeys([*(kept[0] if kept else ()), *columns]))
        header = {name: name for name in self.columns}
        with writing(self.table), replacing(self.table) as file:
            file.write(encoded(_as_csv([header, *kept], self.columns)))

    def _rows_before(self, total_iters: int) -> list[dict[str, str]]:
        if not self.table.exists():
            return []
        with open(self.table, newline="", encoding="utf-8", errors="replace") as file:
            rows = [row for row in csv.DictReader(file) if None not in row]
        return [row for row in rows if _number(row.get("total_iters")) <= total_iters]

    @staticmethod
    def _append(path: Path, text: str) -> None:
        with writing(path), open(path, "ab") as file:
            file.write(encoded(text))


def _as_csv(rows: list[dict], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _number(text: str | None) -> float:
    """A count; infinite where a row is damaged."""
    return int(text) if text and text.isdecimal() else float("inf")
