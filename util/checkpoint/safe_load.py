"""Looks through a checkpoint before torch reads it: what it asks for, and how far it would swell.

`torch.load(weights_only=True)` runs no code from a file. It still lets a file of a few bytes ask
for gigabytes (`bytearray(10**11)`, a compressed member), spend years hashing nested tuples, or end
the process in a stack overflow. Weights and training state need none of that, so a file that asks
for it is refused here.
"""

import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

LEGACY_PICKLES = 5  # magic number, protocol, byte order, the object, names of the storages
ZIP = b"PK\x03\x04"
LARGEST_TUPLE = 10_000  # elements of a tuple and of the tuples in it; a random state has 627
CALLED = re.compile(
    r"collections (OrderedDict|Counter)"
    r"|torch Size"
    r"|torch(\.cuda)? [A-Z][A-Za-z0-9]*Storage"
    r"|torch\.storage (Typed|Untyped)Storage"
    r"|torch (b?float|int|uint|bool)[a-z0-9_]*"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
)


def screen(path: Path) -> None:
    """Refuse a file that is no checkpoint of tensors and plain data, or swells when it is read.

    Args:
        path: a file of torch.save, in its zip format or in that from before torch 1.6.

    Raises:
        pickle.UnpicklingError: with the reason.
        Exception: any, where the file is damaged.
    """
    with open(path, "rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP  # torch decides by this, too
        file.seek(0)
        if not is_zip:
            for _ in range(LEGACY_PICKLES):
                _screen_pickle(file)
            return
        with zipfile.ZipFile(file) as archive:
            _refuse_swelling(archive, path.stat().st_size)
            for member in archive.infolist():
                if member.filename.endswith(".pkl"):
                    _screen_pickle(archive.read(member))


def strip_attributes(value: Any) -> Any:
    """Take away what a pickle hung on its dictionaries: an attribute `items` hides the method.

    Args:
        value: what torch.load returned; changed in place.

    Returns:
        The same object.
    """
    left, seen = [value], set()
    while left:
        part = left.pop()
        if id(part) in seen or not isinstance(part, (dict, list, tuple)):
            continue
        seen.add(id(part))
        left.extend(dict.values(part) if isinstance(part, dict) else part)
        if isinstance(part, dict) and type(part) is not dict:
            vars(part).clear()
    return value


def _refuse_swelling(archive: zipfile.ZipFile, size: int) -> None:
    """Members of torch.save are not compressed, so together they are smaller than the file."""
    names, starts = archive.namelist(), [member.header_offset for member in archive.infolist()]
    if len(set(names)) < len(names) or min(starts, default=0) != 0:
        raise pickle.UnpicklingError("it is two archives in one")  # torch might read the other one
    total = sum(member.file_size for member in archive.infolist())
    if total > size:
        raise pickle.UnpicklingError(f"it has {size} bytes and would become {total}")


def _screen_pickle(source: bytes | BinaryIO) -> None:
    """Follow the pickle's stack machine, with the size of a tuple in place of each object."""
    stack: list[int | None] = []  # None is a mark
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(source):
        if opcode.name in ("GLOBAL", "INST") and not CALLED.fullmatch(argument):
            raise pickle.UnpicklingError(f"it asks for {argument.replace(' ', '.')}")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            taken = _take(stack, opcode)
            size = 1 + taken if opcode.name.startswith("TUPLE") else 1
            if size > LARGEST_TUPLE:
                raise pickle.UnpicklingError("it nests tuples too deeply")
            stack += [
                None if kind is pickletools.markobject else size for kind in opcode.stack_after
            ]


def _take(stack: list[int | None], opcode: pickletools.OpcodeInfo) -> int:
    """Pop what the opcode takes; returns the sum of the sizes."""
    total = 0
    for kind in reversed(opcode.stack_before):
        if kind is pickletools.stackslice:
            while stack[-1] is not None:
                total += stack.pop()
        else:
            total += stack.pop() or 0
    return total
