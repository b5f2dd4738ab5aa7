"""Jobs that torchrun or SLURM starts again, with the same command line, go on where they were."""

import os
from pathlib import Path

from util import checkpoint, distributed


def job() -> str | None:
    """The number of the SLURM job, which a training state keeps: it stays when requeued."""
    return os.environ.get("SLURM_JOB_ID")


def was_restarted() -> bool:
    """Whether there was a restart at all; every rank knows."""
    return distributed.restarts() > 0 or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def started_again(directory: Path) -> str | None:
    """Who has started this job again after it had saved a state; None if nobody has.

    An older run may have left its state in the same folder: that is none of this job's.

    Args:
        directory: the experiment's folder; looked at by rank 0, which has to call this.
    """
    if distributed.saved_before_restart():
        return "torchrun"
    if job() and was_restarted():
        state = checkpoint.load_train_state(directory, "latest")
        return "SLURM" if state and state.get("job") == job() else None
    return None
