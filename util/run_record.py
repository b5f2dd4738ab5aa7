"""What ran, written beside it: train_opt.txt or test_opt.txt for people, .json for programs."""

import argparse
import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from util import checkpoint
from util.errors import UserError, one_line

LARGEST = 1 << 20  # bytes of train_opt.json
LARGEST_NUMBER = 65536  # channels, or pixels of a side
# Where to continue, and what follows from the machine: a continued run does not take these over.
NOT_RESTORED = {
    "continue_train", "epoch", "load_iter", "epoch_count", "resume_tag", "name", "suffix",
    "checkpoints_dir", "gpu_ids", "device", "isTrain", "num_threads",
}  # fmt: skip


def save_options(
    opt: argparse.Namespace, folder: Path, suffixes: Sequence[str] = (".txt", ".json")
) -> None:
    """Write the final options: beside the checkpoints when training, else beside the results."""
    stem = "train_opt" if opt.isTrain else "test_opt"
    values = {key: _plain(value) for key, value in sorted(vars(opt).items())}
    lines = ["----------------- Options ---------------"]
    lines += [f"{key:>25}: {one_line(value)}" for key, value in values.items()]
    lines += ["----------------- End -------------------", ""]
    texts = {".txt": "\n".join(lines), ".json": json.dumps(values, indent=1) + "\n"}
    for suffix in suffixes:
        checkpoint.write_text(folder / (stem + suffix), texts[suffix])


def plain_options(opt: argparse.Namespace) -> dict[str, Any]:
    """The options that a training state keeps: those of the run, as plain values."""
    return plain_values(dict(sorted(vars(opt).items())))


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that belong to a run, and that any file can hold."""
    return {k: v for k, v in values.items() if k not in NOT_RESTORED and _is_plain(v)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(part) and not isinstance(part, list) for part in value)
    return isinstance(value, (bool, int, float, str, type(None)))


def read_options(
    folder: Path, names: Sequence[str], accepts: Callable[[str, Any], bool]
) -> dict[str, Any]:
    """The options that training saved in `folder`; empty where it saved none, as the original.

    Args:
        folder: the experiment's folder.
        names: the options to read.
        accepts: whether an option can have a value.

    Raises:
        UserError: the file is there and is not what save_options writes.
    """
    path = folder / "train_opt.json"
    try:
        values = json.loads(_small_text(path))
        if not isinstance(values, dict):
            raise ValueError("it holds no names with values")
        values = {name: values[name] for name in names if name in values}
        wrong = [name for name in values if not _sane(values[name], accepts, name)]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be {reprlib.repr(values[wrong[0]])}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}, the options of the training, cannot be used ({error}); remove it and type "
            "the network options (--netG, --norm, --ngf, …) instead"
        ) from None
    return values


def _small_text(path: Path) -> str:
    """The text of a file, which may also be a link to something endless."""
    with open(path, "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return content.decode("utf-8")


def _sane(value: Any, accepts: Callable[[str, Any], bool], name: str) -> bool:
    """Whether an option can have this value, and it is no number that only fills the memory."""
    too_large = isinstance(value, (int, float)) and not abs(value) <= LARGEST_NUMBER
    return not too_large and accepts(name, value)


def _plain(value: object) -> object:
    """A value that JSON can hold; infinity and devices become their names."""
    plain = isinstance(value, (bool, int, str, list, type(None)))
    return value if plain or (isinstance(value, float) and value != float("inf")) else str(value)
