"""Weights and training state on disk: the only package that writes or reads them.

`{tag}_net_{NAME}.pth` holds a plain state dict with the keys of the original;
`{tag}_train_state.pth` holds by itself all that a run resumes from.
"""
# ruff: noqa: F401, I001 (names to import from here)

from util.checkpoint.files import (
    copy_checkpoint, folder, load, locked_folder, prune, save, set_aside, size, state_path, tag,
    weights_path, what_is_missing, write_text,
)  # fmt: skip
from util.checkpoint.train_state import COUNTERS, FORMAT, load_train_state, save_train_state
from util.checkpoint.weights import load_weights, save_weights
