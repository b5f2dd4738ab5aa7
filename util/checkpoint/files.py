"""The files of checkpoints: their names, writing and reading one, copying and pruning them."""

import argparse
import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from util import distributed
from util.checkpoint.safe_load import screen
from util.errors import UserError
from util.files import (
    atomic_write,
    copy,
    encoded,
    explain_write_errors,
    link,
    locked,
    remove_unfinished,
)  # fmt: skip

STATE = "_train_state.pth"


class Damaged(UserError):
    """A checkpoint that was read, and holds something else."""


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


@contextmanager
def locked_folder(path: Path, remedy: str) -> Iterator[None]:
    """Make a folder, and be the only program that writes to it in this block; else UserError.

    What a killed program left half-written is removed. Only rank 0 writes.
    """
    if not distributed.is_main():
        yield
        return
    with locked(path / ".lock", path, remedy):
        for folder in (path, path / "images", path / "web", path / "web" / "images"):
            remove_unfinished(folder)
        yield


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
    """torch.load of plain data onto the CPU, never running code from the file.

    With `mmap`, for files of ours, it is read where it is used, and its checksums are looked at.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; {_what_is_there(path.parent)}")
    try:
        screen(path, checksums=mmap)
        with open(path, "rb") as file:
            utf_8 = str(path).encode("utf-8", "ignore").decode() == str(path)
            mappable = mmap and utf_8  # or torch cannot open it by its name
            source = str(path) if mappable else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mappable)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # damaged bytes make torch's reader raise nearly anything
        raise Damaged(
            f"{path} is damaged, or holds more than tensors and plain data, which is refused; save "
            "or copy it again"
        ) from None


@distributed.main_only
def copy_checkpoint(directory: Path, tag: str, other: str) -> None:
    """Give checkpoint `tag` another tag as well; the state, the largest file, is only linked."""
    for path in reversed(_files(directory, tag)):
        target = path.with_name(other + path.name.removeprefix(tag))
        with explain_write_errors(target):
            # other programs may write weights in place
            (link if path.name.endswith(STATE) else copy)(path, target)


@distributed.main_only
def set_aside(directory: Path, tag: str) -> None:
    """Rename checkpoint `latest`, soon to be replaced, to `tag`, unless that is further on.

    The state, in which the weights are, goes first: a kill in between loses nothing.
    """
    if _images_seen(directory, tag) > _images_seen(directory, "latest"):
        return
    for path in _files(directory, tag):  # of other networks, perhaps
        with explain_write_errors(path):
            if not path.name.endswith(STATE) or not state_path(directory, "latest").exists():
                path.unlink()
    for path in reversed(_files(directory, "latest")):
        with explain_write_errors(path):
            os.replace(path, path.with_name(tag + path.name.removeprefix("latest")))


def _images_seen(directory: Path, tag: str) -> int:
    """How far a checkpoint is trained; 0 if it does not say, -1 if there is none."""
    if not _files(directory, tag):
        return -1
    try:
        return load(state_path(directory, tag), mmap=True)["progress"]["total_iters"]
    except (UserError, TypeError, KeyError):  # weights only, damaged, or no state of ours
        return 0


@distributed.main_only
def prune(directory: Path, tag: str, keep: int) -> None:
    """Of the checkpoints of the kind of `tag`, epochs or iter_N, leave `keep` and later ones."""
    newest = re.fullmatch("(iter_|)([0-9]+)", tag)
    if not newest:
        return
    number = re.compile(f"{newest[1]}([0-9]+)_(net_|train_state)")
    found = {int(match[1]) for match in map(number.match, os.listdir(directory)) if match}
    older = sorted(n for n in found if n < int(newest[2]))
    for other in older[::-1][keep - 1 :]:
        for path in reversed(_files(directory, f"{newest[1]}{other}")):
            with explain_write_errors(path):
                path.unlink(missing_ok=True)


def size(directory: Path, tag: str) -> int:
    """Bytes of the files of a checkpoint."""
    return sum(path.stat().st_size for path in _files(directory, tag))


def _files(directory: Path, tag: str) -> list[Path]:
    """The files of a checkpoint, its training state last."""
    state = state_path(directory, tag)
    return sorted(directory.glob(f"{glob.escape(tag)}_net_*.pth")) + [state] * state.exists()


def what_is_missing(directory: Path, tag: str) -> str:
    """A sentence if there is neither training state nor any weights of a checkpoint, else ""."""
    missing = f"there is no {state_path(directory, tag)}, nor any {tag}_net_*.pth beside it"
    return "" if _files(directory, tag) else f"{missing}; {_what_is_there(directory)}"


def _what_is_there(directory: Path) -> str:
    found = sorted(path.name for path in directory.glob("*_net_*.pth"))
    shown = ", ".join(found[:8] + ["…"] * (len(found) > 8)) or "no weights at all"
    choose = "choose with --epoch, --load_iter, --model_suffix, --name or --checkpoints_dir"
    return f"the folder has {shown}; {choose}"
