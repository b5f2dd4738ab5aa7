"""What a run continues from: asked for, or because torchrun or SLURM has started its job again."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util import checkpoint, distributed
from util.errors import UserError
from util.run_record import plain_options


@dataclass
class SavedRun:
    """A checkpoint with its training state, opened while the command line is parsed.

    Args:
        tag: of the checkpoint.
        restarted_by: "torchrun" or "SLURM"; None where --continue_train asks for it.
        epoch: the one to continue in, from 1.
        options: of the run, plain values.
        state: of `checkpoint.load_train_state`, on rank 0 until it is taken.
    """

    tag: str
    restarted_by: str | None
    epoch: int
    options: dict[str, Any]
    state: dict[str, Any] | None = field(default=None, repr=False)

    def take_state(self) -> dict[str, Any] | None:
        """The training state, on rank 0; this object no longer holds it."""
        state, self.state = self.state, None
        return state

    def __getstate__(self) -> dict[str, Any]:
        """Copies, such as those of loader workers, go without the training state."""
        return {**vars(self), "state": None}


def job() -> str | None:
    """The number of the SLURM job, which a training state keeps: it stays when requeued."""
    return os.environ.get("SLURM_JOB_ID")


def was_restarted() -> bool:
    """Whether there was a restart at all; every rank knows."""
    return distributed.restarts() > 0 or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def open_saved_run(directory: Path, tag: str | None) -> SavedRun | None:
    """Open what to continue from; call it on every rank, the files are those of rank 0.

    A job that was started again continues from what it has saved itself: an older run may have
    left its state in the same folder.

    Args:
        directory: the experiment's folder.
        tag: the checkpoint that --continue_train asks for; None without it.

    Returns:
        None where there is no training state: a new run, or weights alone.

    Raises:
        UserError: the training state cannot be read, or neither it nor weights are there.
    """
    run = _open(directory, tag) if distributed.is_main() else None
    told = distributed.from_main(lambda: run and {**vars(run), "state": None})
    return run if distributed.is_main() or told is None else SavedRun(**told)


def _open(directory: Path, tag: str | None) -> SavedRun | None:
    by = "torchrun" if distributed.saved_before_restart() else "SLURM" if was_restarted() else None
    state = checkpoint.load_train_state(directory, "latest") if by else None
    if by == "SLURM" and state and not (job() and state.get("job") == job()):
        state = None  # of an older run
    if state:
        tag = "latest"
    elif tag:
        by, state = None, checkpoint.load_train_state(directory, tag)
        missing = None if state else checkpoint.what_is_missing(directory, tag)
        if missing:
            raise UserError(f"--continue_train: {missing}")
    if state is None or tag is None:
        return None
    epoch = max(1, state["progress"]["epoch"])
    return SavedRun(tag, by, epoch, plain_options(state["options"]), state)
