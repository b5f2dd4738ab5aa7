"""What ran, written beside it: train_opt.txt or test_opt.txt for people, .json for programs."""

import argparse
import json
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from util import checkpoint
from util.errors import UserError, one_line

OF_A_PLACE = ("dataroot", "checkpoints_dir", "gpu_ids", "num_threads")
LARGEST = 1 << 20  # characters of train_opt.json
LARGEST_NUMBER = 65536  # channels, or pixels of a side


def save_options(
    opt: argparse.Namespace, folder: Path, suffixes: Sequence[str] = (".txt", ".json")
) -> None:
    """Write the final options: beside the checkpoints when training, else beside the results."""
    stem = "train_opt" if opt.isTrain else "test_opt"
    values = {
        key: value if _is_plain(value) and value != math.inf else str(value)
        for key, value in sorted(vars(opt).items())
        if key != "saved_run"
    }
    lines = ["----------------- Options ---------------"]
    lines += [f"{key:>25}: {one_line(value)}" for key, value in values.items()]
    lines += ["----------------- End -------------------", ""]
    texts = {".txt": "\n".join(lines), ".json": json.dumps(values, indent=1) + "\n"}
    for suffix in suffixes:
        checkpoint.write_text(folder / (stem + suffix), texts[suffix])


def read_options(
    folder: Path, names: Sequence[str], accepts: Callable[[str, Any], bool]
) -> dict[str, Any]:
    """Those of the options `names` that training saved in `folder`; the original saves none.

    UserError if the file is damaged, or a value is not one that `accepts(name, value)`.
    """
    path = folder / "train_opt.json"
    try:
        with open(path, encoding="utf-8") as file:  # perhaps a link to something endless
            saved = json.loads(file.read(LARGEST))
        if not isinstance(saved, dict):
            raise ValueError("it holds no names with values")
        values = {name: saved[name] for name in names if name in saved}
        for name, value in values.items():
            only_fills_memory = isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER
            if only_fills_memory or not accepts(name, value):
                raise ValueError(f"{name} cannot be {reprlib.repr(value)}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be used ({error}); remove it and give --netG, --norm, --ngf, … instead"
        ) from None
    return values


def plain_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a training state keeps, in their order: those that any file can hold."""
    found = sorted(values.items())
    return {name: value for name, value in found if name != "saved_run" and _is_plain(value)}


def shared_options(opt: argparse.Namespace) -> list[str]:
    """The options that must be alike on all ranks, one a line: those that belong to no place."""
    values = plain_options(vars(opt))
    return [f"--{name} {value}" for name, value in values.items() if name not in OF_A_PLACE]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(part) and not isinstance(part, list) for part in value)
    return isinstance(value, (bool, int, float, str, type(None)))
