"""The losses on disk: loss_log.txt in the original's line format, and losses.csv."""

import csv
import time
from collections.abc import Mapping
from pathlib import Path

from util.checkpoint import writing

TIMES = ("epoch", "iters", "total_iters", "time", "data")


class LossLog:
    """Appends to `loss_log.txt` and `losses.csv` in the experiment's folder.

    Args:
        folder: the experiment's folder.
        resume: keep the rows that are in losses.csv; else it starts afresh. loss_log.txt is
            always kept, under a new heading, as in the original.

    Raises:
        UserError: a file cannot be written; from every method.
    """

    def __init__(self, folder: Path, resume: bool = False):
        """Write the heading of this run."""
        self.text, self.table = Path(folder) / "loss_log.txt", Path(folder) / "losses.csv"
        self._has_header = resume and self.table.exists()
        if not resume:
            with writing(self.table):
                self.table.unlink(missing_ok=True)
        self._append_text(
            f"================ Training Loss ({time.strftime('%c')}) ================"
        )

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
        self._append_text(line)
        times = (epoch, iters, total_iters, f"{seconds:.6f}", f"{waited:.6f}")
        self._append_row([*times, *losses.values()], [*TIMES, *losses])
        return line

    def _append_text(self, line: str) -> None:
        with writing(self.text), open(self.text, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _append_row(self, row: list, header: list[str]) -> None:
        with writing(self.table), open(self.table, "a", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            if not self._has_header:
                rows.writerow(header)
            rows.writerow(row)
        self._has_header = True
