"""What ran, written beside it: train_opt.txt or test_opt.txt for people, .json for programs."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from util import checkpoint
from util.errors import UserError


def save_options(
    opt: argparse.Namespace, folder: Path, suffixes: Sequence[str] = (".txt", ".json")
) -> None:
    """Write the final options: beside the checkpoints when training, else beside the results."""
    stem = "train_opt" if opt.isTrain else "test_opt"
    values = {key: _plain(value) for key, value in sorted(vars(opt).items())}
    lines = ["----------------- Options ---------------"]
    lines += [f"{key:>25}: {value}" for key, value in values.items()]
    lines += ["----------------- End -------------------", ""]
    texts = {".txt": "\n".join(lines), ".json": json.dumps(values, indent=1) + "\n"}
    for suffix in suffixes:
        checkpoint.write_text(folder / (stem + suffix), texts[suffix])


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
        values = json.loads(path.read_text(encoding="utf-8"))
        values = {name: values[name] for name in names if name in dict(values)}
        wrong = [name for name in values if not accepts(name, values[name])]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be {values[wrong[0]]!r}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}, the options of the training, cannot be used ({error}); remove it and type "
            "the network options (--netG, --norm, --ngf, …) instead"
        ) from None
    return values


def _plain(value: object) -> object:
    """A value that JSON can hold; infinity and devices become their names."""
    plain = isinstance(value, (bool, int, str, list, type(None)))
    return value if plain or (isinstance(value, float) and value != float("inf")) else str(value)
