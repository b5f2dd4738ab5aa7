"""Which options a continued run takes over, and which may be given anew.

Each option says it itself: `on_resume="may change"` (or "keep", the default, or "not restored") in
its `add_argument`. `Parser` explains the three; nothing is listed here.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from models.networks.norms import same_weights
from options.parser import Parser
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
    """One phrase for each given option that a run or its checkpoints, saved with others, refuse."""
    if "batch_size" in given:  # of one rank; what counts is the batch of all
        given = given - {"batch_size"} | {"global_batch_size"}
    for name in sorted(given & saved.keys()):
        value, before = vars(opt)[name], saved[name]
        same = value == before or (name == "norm" and same_weights(value, before))
        if not same and parser.on_resume(name) == "keep":
            yield f"{parser.flag(name, value)} (it has {parser.flag(name, before)})"
