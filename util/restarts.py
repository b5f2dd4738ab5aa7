"""What a run continues from: asked for, or because torchrun or SLURM has restarted its job."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util import checkpoint, distributed
from util.errors import UserError
from util.run_record import plain_options


@dataclass
class SavedRun:
    """A checkpoint to continue from, whose training state is open."""

    tag: str
    restarted_by: str | None  # "torchrun" or "SLURM"; None: --continue_train asks for it
    epoch: int  # to continue in, from 1
    options: dict[str, Any]  # of the run
    state: dict[str, Any] | None = field(default=None, repr=False)  # on rank 0, until restored


def job() -> str | None:
    """The number of the SLURM job, which a training state keeps: it stays when requeued."""
    return os.environ.get("SLURM_JOB_ID")


def was_restarted() -> bool:
    """Whether there was a restart at all; every rank knows."""
    return distributed.restarts() > 0 or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def open_saved_run(directory: Path, tag: str | None) -> SavedRun | None:
    """Open, on rank 0, what to continue from; None without a training state. Call it on all ranks.

    `tag` is what --continue_train asks for on rank 0, None without the flag. A restarted job
    continues only from what it has itself saved in `directory`. UserError if the state cannot be
    read, or --continue_train finds neither it nor weights.
    """
    try:
        run = _open(directory, tag) if distributed.is_main() else None
    except OSError as error:
        raise UserError(f"cannot read {directory}: {error.strerror or error}") from None
    told = distributed.from_main("run", lambda: {**vars(run), "state": None} if run else None)
    return run if distributed.is_main() or told is None else SavedRun(**told)


def _open(directory: Path, tag: str | None) -> SavedRun | None:
    by = "torchrun" if distributed.saved_before_restart() else "SLURM" if was_restarted() else None
    state = checkpoint.load_train_state(directory, "latest") if by else None
    if by == "SLURM" and not (state and job() and state.get("job") == job()):
        by = state = None
    if by:
        tag = "latest"
    elif tag:
        state = checkpoint.load_train_state(directory, tag)
        missing = checkpoint.what_is_missing(directory, tag)
        if missing:
            raise UserError(f"--continue_train: {missing}")
    if state is None or tag is None:
        return None
    epoch = max(1, state["progress"]["epoch"])
    return SavedRun(tag, by, epoch, plain_options(state["options"]), state)
