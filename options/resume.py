"""Which options a continued run takes over, and which may be given anew."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from options.parser import Parser

# What a run can change on the way without becoming another one.
MAY_CHANGE = {
    # more epochs
    "n_epochs", "n_epochs_decay",
    # paths
    "dataroot", "name", "suffix", "checkpoints_dir",
    # what is shown and saved, and when
    "print_freq", "display_freq", "update_html_freq", "no_html", "display_winsize", "verbose",
    "use_wandb", "wandb_project_name", "save_latest_freq", "save_epoch_freq", "save_by_iter",
    "keep_last", "display_id", "display_server", "display_env", "display_port", "display_ncols",
    # how it is computed, if the result is the same
    "num_threads", "gpu_ids", "dist_timeout", "cache", "accumulate", "checkpoint_activations",
}  # fmt: skip


def taken_over(saved: Mapping[str, Any], parser: Parser) -> dict[str, Any]:
    """Those of a training state's options that this program has and that make sense."""
    return {name: value for name, value in saved.items() if parser.accepts(name, value)}


def conflicts(
    opt: argparse.Namespace, given: set[str], saved: Mapping[str, Any], parser: Parser
) -> Iterator[str]:
    """One phrase for each given option that would make another run of it."""
    for name in sorted(given - MAY_CHANGE):
        same_norm = name == "norm" and {opt.norm, saved.get(name)} <= {"batch", "syncbatch"}
        if name in saved and vars(opt)[name] != saved[name] and not same_norm:
            has = "not" if saved[name] is False else parser.flag(name, saved[name])
            yield f"{parser.flag(name, vars(opt)[name])} (it has {has})"
