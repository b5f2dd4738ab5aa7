"""Which options a continued run takes over, and which may be given anew."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from models.networks import same_weights
from options.parser import Parser
from util import checkpoint
from util.restarts import SavedRun


def taken_over(run: SavedRun, parser: Parser) -> dict[str, Any]:
    """The options of a run that this program has, that make sense and that belong to a run."""
    return {
        name: value
        for name, value in run.options.items()
        if parser.accepts(name, value) and parser.on_resume(name) != "not restored"
    }


def conflicts(
    opt: argparse.Namespace, given: set[str], saved: Mapping[str, Any], parser: Parser
) -> Iterator[str]:
    """One sentence about the given options that would make another run of it.

    Args:
        opt: the options.
        given: the names of those that are given.
        saved: what `taken_over` took of the run.
        parser: knows which of them may change.
    """
    if "batch_size" in given:  # of one rank; what counts is the batch of all
        given = given - {"batch_size"} | {"global_batch_size"}
    others = []
    for name in sorted(given & saved.keys()):
        value, before = vars(opt)[name], saved[name]
        same = value == before or (name == "norm" and same_weights(value, before))
        if not same and parser.on_resume(name) == "keep":
            has = "not" if before is False else parser.flag(name, before)
            others.append(f"{parser.flag(name, value)} (it has {has})")
    if others:
        yield (
            "--continue_train keeps the options of the run, and these would make it another: "
            f"{', '.join(others)}; leave them out, or start a new run (--name)"
        )


def epoch_conflict(opt: argparse.Namespace, run: SavedRun) -> Iterator[str]:
    """A sentence where --epoch_count, given, is not the epoch that the run is in."""
    if opt.epoch_count != run.epoch:
        path = checkpoint.state_path(checkpoint.folder(opt), run.tag)
        yield (
            f"--epoch_count {opt.epoch_count}: {path} continues in epoch {run.epoch}; leave the "
            "flag out, or remove that file to start from the weights only"
        )
