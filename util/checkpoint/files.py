"""The files of checkpoints: their names, writing and reading one, copying and pruning them."""

import argparse
import glob
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from util import distributed
from util.checkpoint.safe_load import screen
from util.errors import UserError
from util.files import atomic_write, copy, encoded, explain_write_errors, link

STATE = "_train_state.pth"


def folder(opt: argparse.Namespace) -> Path:
    """Where the experiment keeps its checkpoints."""
    return Path(opt.checkpoints_dir) / opt.name


def tag(opt: argparse.Namespace) -> str:
    """Which checkpoint the options ask for: "latest", "5", "iter_1000"."""
    return f"iter_{opt.load_iter}" if opt.load_iter > 0 else str(opt.epoch)


def weights_path(directory: str | Path, tag: str | int, name: str) -> Path:
    """The file of network `name` in checkpoint `tag`."""
    return Path(directory) / f"{tag}_net_{name}.pth"


def state_path(directory: str | Path, tag: str) -> Path:
    """The file of the training state of checkpoint `tag`."""
    return Path(directory) / (tag + STATE)


@distributed.main_only
def make_folder(path: Path) -> None:
    """Make a folder that can be written to; UserError if that cannot be."""
    with explain_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()


@distributed.main_only
def write_text(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with explain_write_errors(path), atomic_write(path, durable=True) as file:
        file.write(encoded(text))


@distributed.main_only
def save(value: Any, path: Path) -> None:
    """torch.save, whole or not at all."""
    with explain_write_errors(path), atomic_write(path, durable=True) as file:
        torch.save(value, file)


def load(path: Path, mmap: bool = False) -> Any:
    """torch.load onto the CPU, never running code from the file; `mmap` as there.

    Raises:
        UserError: the file is missing, not readable, truncated, or holds more than plain data.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; {_what_is_there(path.parent)}")
    try:
        screen(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # damaged bytes make torch's reader raise nearly anything
        raise UserError(
            f"{path} is damaged, or holds more than tensors and plain data, which is refused; copy "
            "the file again, or save it again as a state dict of tensors"
        ) from None


@distributed.main_only
def copy_checkpoint(directory: Path, tag: str, other: str) -> None:
    """Give checkpoint `tag`, its training state and its weights, another tag as well.

    Only the state, which takes the most space, is linked: other programs may write weights in
    place.
    """
    for path in reversed(_files(directory, tag)):
        target = path.with_name(other + path.name.removeprefix(tag))
        with explain_write_errors(target):
            (link if path.name.endswith(STATE) else copy)(path, target)


@distributed.main_only
def set_aside(directory: Path) -> None:
    """Rename checkpoint `latest` of an earlier run to `previous`, if there is one."""
    for path in _files(directory, "latest"):
        with explain_write_errors(path):
            os.replace(path, path.with_name("previous" + path.name.removeprefix("latest")))


@distributed.main_only
def prune(directory: Path, tag: str, keep: int) -> None:
    """Of the checkpoints of the kind of `tag`, epochs or iter_N, leave `keep` and later ones."""
    number = re.compile("(iter_)?([0-9]+)")
    newest = number.fullmatch(tag)
    if not newest:
        return
    tags = {re.split("_net_|_train_state", path.name)[0] for path in directory.glob("*.pth")}
    kind = [match for match in map(number.fullmatch, tags) if match and match[1] == newest[1]]
    older = sorted((int(m[2]), m[0]) for m in kind if int(m[2]) < int(newest[2]))
    for _, other in older[::-1][keep - 1 :]:
        for path in reversed(_files(directory, other)):
            with explain_write_errors(path):
                path.unlink(missing_ok=True)


@distributed.main_only
def remove_unfinished(directory: Path) -> None:
    """Remove what a killed run was writing."""
    for path in directory.glob(".*.pth.tmp"):
        with suppress(OSError):
            path.unlink()


def size(directory: Path, tag: str) -> int:
    """Bytes of the files of a checkpoint."""
    return sum(path.stat().st_size for path in _files(directory, tag))


def _files(directory: Path, tag: str) -> list[Path]:
    """The files of a checkpoint, its training state last."""
    state = state_path(directory, tag)
    return sorted(directory.glob(f"{glob.escape(tag)}_net_*.pth")) + [state] * state.exists()


def what_is_missing(directory: Path, tag: str) -> str | None:
    """A sentence where there is neither training state nor any weights of a checkpoint."""
    if _files(directory, tag):
        return None
    state = state_path(directory, tag)
    return f"there is no {state}, nor any {tag}_net_*.pth beside it; {_what_is_there(directory)}"


def _what_is_there(directory: Path) -> str:
    if not directory.is_dir():
        return f"there is no folder {directory} either; check --name and --checkpoints_dir"
    found = sorted(path.name for path in directory.glob("*_net_*.pth"))
    if not found:
        return "the folder holds no weights at all; check --name, or train first"
    shown = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
    return f"the folder has {shown}; choose with --epoch, --load_iter, --model or --model_suffix"
