"""Weights and training state on disk: the only module that writes or reads them.

`{tag}_net_{NAME}.pth` holds a plain state dict with the keys of the original, which it and
`torch.load(weights_only=True)` read. `{tag}_train_state.pth` holds by itself all that a run goes
on from (train_state.py). Every file is written under a temporary name, flushed to disk and
renamed, so a reader never sees half a file.
"""

import argparse
import glob
import os
import pickle
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util import distributed
from util.checkpoint.safe_load import screen, strip_attributes
from util.errors import UserError
from util.files import atomic_write, copy, encoded, explain_write_errors
from util.version import VERSION

PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel, DistributedDataParallel and compile
RUNNING = ("running_mean", "running_var", "num_batches_tracked")
SINCE_0_4_1 = "num_batches_tracked"  # older batch norm checkpoints lack it
STATE = "_train_state.pth"
FORMAT = 1  # of the training state
PARTS = ("objects", "numbers", "random")  # of the state of a rank
COUNTERS = ("epoch", "position", "total_iters", "images")
MOST_EXPLAINED = 10_000  # weights; each layer is built to compare, which takes time
Explain = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], str]


def folder(opt: argparse.Namespace) -> Path:
    """Where the experiment keeps its checkpoints."""
    return Path(opt.checkpoints_dir) / opt.name


def tag(opt: argparse.Namespace) -> str:
    """Which checkpoint the options ask for: "latest", "5", "iter_1000"."""
    return f"iter_{opt.load_iter}" if opt.load_iter > 0 else str(opt.epoch)


def weights_path(directory: Path, tag: str, name: str) -> Path:
    """The file of network `name` in checkpoint `tag`."""
    return Path(directory) / f"{tag}_net_{name}.pth"


@distributed.main_only
def make_folder(path: Path) -> None:
    """Make a folder that can be written to; UserError if that cannot be."""
    probe = Path(path) / ".writable.tmp"
    with explain_write_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


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


def save_weights(net: nn.Module, path: Path) -> None:
    """Save the state dict of a network, on the CPU and without the names of its wrappers."""
    state = distributed.unwrap(net).state_dict()
    save({key: value.detach().cpu() for key, value in state.items()}, path)


def load(path: Path, mmap: bool = False) -> Any:
    """torch.load onto the CPU, never running code from the file.

    Args:
        path: the file.
        mmap: read the values of tensors when they are used.

    Raises:
        UserError: the file is missing, not readable, truncated, or holds more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; {_what_is_there(path)}")
    try:
        screen(path)
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        return strip_attributes(value)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (pickle.UnpicklingError, MemoryError):
        raise UserError(
            f"{path} is not a checkpoint of plain weights: it is damaged, or needs code to be "
            "loaded, which is refused; save it again as a state dict of tensors"
        ) from None
    except Exception:  # what damaged bytes lead torch's reader to is anybody's guess
        raise UserError(f"{path} is damaged or not a checkpoint; copy or train it again") from None


def load_weights(net: nn.Module, path: Path, explain: Explain | None = None) -> None:
    """Load a state dict of this program or of the original into `net`, strictly.

    Args:
        net: the network, wrapped or not.
        path: the file.
        explain: given the network's state dict and the file's that does not fit, which options
            are the likely cause.

    Raises:
        UserError: as `load`, or the weights are of another architecture.
    """
    state = load(path)
    if not _is_state_dict(state):
        raise UserError(f"{path} holds no state dict (names with tensors), so it is no network")
    net = distributed.unwrap(net)
    expected = net.state_dict()
    state = {key if key in expected else _strip(key): value for key, value in state.items()}
    _drop_old_instance_norm(net, state)
    problem = _mismatch(expected, state)
    if problem:
        hint = _hint(explain, expected, state)
        raise UserError(f"{path} does not fit the network: {problem}{hint}")
    net.load_state_dict(expected | state)


def _hint(
    explain: Explain | None, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> str:
    """What `explain` says; nothing about weights so strange that it fails at them."""
    if explain and len(found) <= MOST_EXPLAINED:
        with suppress(Exception):
            return explain(expected, found)
    return ""


def state_path(directory: Path, tag: str) -> Path:
    """The file of the training state of checkpoint `tag`."""
    return Path(directory) / (tag + STATE)


def save_train_state(directory: Path, tag: str, state: Mapping[str, Any]) -> None:
    """Save what a run goes on from.

    Args:
        directory: the experiment's folder.
        tag: the checkpoint this belongs to.
        state: as util/checkpoint/train_state.py collects it; versions are added.
    """
    versions = {"format": FORMAT, "program": VERSION, "torch": str(torch.__version__)}
    save(versions | dict(state), state_path(directory, tag))


def load_train_state(directory: Path, tag: str) -> dict[str, Any] | None:
    """What save_train_state saved; None where there is none, as beside the original's weights.

    Tensors are read from the disk when they are used.

    Raises:
        UserError: it cannot be read, or is no training state of this or an older version.
    """
    path = state_path(directory, tag)
    if not path.exists():
        return None
    try:
        state = load(path, mmap=True)
    except UserError as error:
        raise UserError(f"{error}; or remove it to start from the weights only") from None
    if isinstance(state, dict) and type(state.get("format")) is int and state["format"] > FORMAT:
        raise UserError(f"{path} is from a newer version of this program; train on with that one")
    if not _is_train_state(state):
        raise UserError(f"{path} holds no training state; remove it to start from the weights only")
    return state


def _is_train_state(state: Any) -> bool:
    found = state.get("format") if isinstance(state, dict) else None
    if type(found) is not int or found != FORMAT:
        return False
    progress, ranks = state.get("progress"), state.get("ranks")
    counters = [progress.get(key) for key in COUNTERS] if isinstance(progress, dict) else [None]
    return (
        all(type(count) is int and count >= 0 for count in counters)
        and isinstance(state.get("options"), dict)
        and isinstance(state.get("objects"), dict)
        and isinstance(ranks, list)
        and len(ranks) > 0
        and all(isinstance(rank, dict) for rank in ranks)
        and all(isinstance(rank.get(part), dict) for rank in ranks for part in PARTS)
    )


@distributed.main_only
def copy_checkpoint(directory: Path, tag: str, other: str) -> None:
    """Give checkpoint `tag`, its training state and its weights, another tag as well.

    Only the state, which takes the most space, is linked: other programs may write weights in
    place.
    """
    for path in reversed(_files(directory, tag)):
        target = path.with_name(other + path.name.removeprefix(tag))
        with explain_write_errors(target):
            copy(path, target, link=path.name.endswith(STATE))


@distributed.main_only
def set_aside(directory: Path) -> None:
    """Rename checkpoint `latest` of an earlier run to `previous`, if there is one."""
    for path in _files(directory, "latest"):
        with explain_write_errors(path):
            os.replace(path, path.with_name("previous" + path.name.removeprefix("latest")))


@distributed.main_only
def prune(directory: Path, tag: str, keep: int) -> None:
    """Remove older checkpoints of the kind of `tag`, epochs or iter_N.

    Args:
        directory: the experiment's folder.
        tag: the newest, already on the disk; later ones, left from another run, stay too.
        keep: how many stay, with the newest.
    """
    kind, newest = _kind(tag)
    tags = {path.name.split("_net_")[0] for path in Path(directory).glob("*_net_*.pth")}
    tags |= {path.name.removesuffix(STATE) for path in Path(directory).glob(f"*{STATE}")}
    older = sorted(
        (number, tag)
        for tag in tags
        for k, number in [_kind(tag)]
        if k == kind and 0 <= number < newest
    )
    for _, old in older[: max(0, len(older) - keep + 1)]:
        for path in reversed(_files(directory, old)):
            with explain_write_errors(path):
                path.unlink(missing_ok=True)


@distributed.main_only
def remove_unfinished(directory: Path) -> None:
    """Remove what a killed run was writing."""
    for path in Path(directory).glob(".*.pth.tmp"):
        with suppress(OSError):
            path.unlink()


def size(directory: Path, tag: str) -> int:
    """Bytes of the files of a checkpoint."""
    return sum(path.stat().st_size for path in _files(directory, tag))


def _kind(tag: str) -> tuple[str, int]:
    """("", 5) of "5", ("iter_", 1000) of "iter_1000"; -1 where there is no number."""
    kind = "iter_" if tag.startswith("iter_") else ""
    number = tag.removeprefix(kind)
    return kind, int(number) if number.isascii() and number.isdecimal() else -1


def _files(directory: Path, tag: str) -> list[Path]:
    """The files of a checkpoint, its training state last."""
    state = state_path(directory, tag)
    weights = sorted(Path(directory).glob(f"{glob.escape(tag)}_net_*.pth"))
    return weights + [state] * state.exists()


def what_is_missing(directory: Path, tag: str) -> str | None:
    """A sentence where there is neither training state nor any weights of a checkpoint."""
    if _files(directory, tag):
        return None
    path = state_path(directory, tag)
    return f"there is no {path}, nor any {tag}_net_*.pth beside it; {_what_is_there(path)}"


def _what_is_there(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either; check --name and --checkpoints_dir"
    found = sorted(file.name for file in path.parent.glob("*_net_*.pth"))
    if not found:
        return "the folder holds no weights at all; check --name, or train first"
    shown = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
    return f"the folder has {shown}; choose with --epoch, --load_iter, --model or --model_suffix"


def _is_state_dict(state: Any) -> bool:
    return isinstance(state, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    )


def _strip(key: str) -> str:
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def _drop_old_instance_norm(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Before torch 0.4 InstanceNorm2d saved running statistics, which it did not use."""
    for name, module in net.named_modules():
        plain = isinstance(module, nn.InstanceNorm2d) and not module.track_running_stats
        if plain and f"{name}.weight" not in state:  # with weights it was a batch norm
            for buffer in RUNNING:
                state.pop(f"{name}.{buffer}", None)


def _mismatch(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What is wrong with `found`; None if it fits."""
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if {key for key in missing if not key.endswith(SINCE_0_4_1)} or extra:
        return f"{len(missing)} of its weights are missing, {len(extra)} are none of its"
    for key, tensor in found.items():
        if tensor.shape != expected[key].shape:
            return f"{key} is {_size(tensor)} in the file and {_size(expected[key])} here"
        if tensor.is_floating_point() != expected[key].is_floating_point():
            return f"{key} holds {tensor.dtype} in the file and {expected[key].dtype} here"
    return None


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
