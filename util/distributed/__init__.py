"""Ranks: the only package that knows of them. A process started alone is a job of one rank."""
# ruff: noqa: F401, I001 (names to import from here)

from util.distributed import sync_batch_norm
from util.distributed.collectives import (
    StepFlags, barrier, broadcast, check_same, from_main, gather, gather_everywhere, maxima, mean,
    scatter,
)  # fmt: skip
from util.distributed.ddp import (
    Wrapper, check_ddp_consistency, check_wrapped, norm_for_job, split_batch, unsynchronised,
    unwrap, wrap,
)  # fmt: skip
from util.distributed.program import job, one_process_only, print_error_once, run
from util.distributed.ranks import (
    NoOp, is_main, launcher_is_gone, local_rank, local_world_size, main_only, note_saved, print0,
    rank, restarts, saved_before_restart, summary, world_size,
)  # fmt: skip
