"""Looks through a checkpoint before torch reads it: what it would call, and how much it would fill.

`torch.load(weights_only=True)` runs no code from a file. It still lets a file of a few bytes ask
for gigabytes (`bytearray(10**11)`, a compressed member), or hash nested tuples for years. Weights
and training state need none of that, so a file that asks for it is refused here.
"""

import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

LEGACY_PICKLES = 5  # magic number, protocol, byte order, the object, names of the storages
ZIP = b"PK\x03\x04"
DEEPEST_TUPLE = 1000  # tuples that are closed one after the other
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
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


def _refuse_swelling(archive: zipfile.ZipFile, size: int) -> None:
    """Members of torch.save are not compressed, so together they are smaller than the file."""
    names, starts = archive.namelist(), [member.header_offset for member in archive.infolist()]
    if len(set(names)) < len(names) or min(starts, default=0) != 0:
        raise pickle.UnpicklingError("it is two archives in one")  # torch might read the other one
    total = sum(member.file_size for member in archive.infolist())
    if total > size:
        raise pickle.UnpicklingError(f"it has {size} bytes and would become {total}")


def _screen_pickle(source: bytes | BinaryIO) -> None:
    """Look at each opcode: it may call only what tensors need, and build only tuples that are flat.

    A tuple that is used twice doubles with every level, and one that is too deep overflows the
    stack, when it is hashed as a key; torch.save writes neither for a state.
    """
    depth, tuples = 0, set()  # in the memo
    for opcode, argument, _ in pickletools.genops(source):
        if opcode.name in ("GLOBAL", "INST") and not CALLED.fullmatch(str(argument)):
            raise pickle.UnpicklingError(f"it asks for {str(argument).replace(' ', '.')}")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            if depth:
                tuples.add(argument)
            continue
        depth = depth + 1 if opcode.name in TUPLES else 0
        repeated = opcode.name in ("BINGET", "LONG_BINGET") and argument in tuples
        if repeated or depth > DEEPEST_TUPLE:
            raise pickle.UnpicklingError("it has tuples in tuples")
