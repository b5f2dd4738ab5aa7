"""Looks through a checkpoint before torch reads it: what it would call, and how much it would fill.

`torch.load(weights_only=True)` runs no code from a file. It still lets a file of a few bytes ask
for gigabytes (`bytearray(10**11)`, a compressed member), which weights and training state never do.
"""

import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import BinaryIO

DEEPEST_TUPLE = 1000  # tuples that are closed one after the other
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
LEGACY_PICKLES = 5  # magic number, protocol, byte order, the object, names of the storages
ZIP = b"PK\x03\x04"
CALLED = re.compile(
    r"collections (OrderedDict|Counter)"
    r"|torch Size"
    r"|torch(\.cuda)? [A-Z][A-Za-z0-9]*Storage"
    r"|torch\.storage (Typed|Untyped)Storage"
    r"|torch (b?float|int|uint|bool)[a-z0-9_]*"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter)"
)


def screen(path: Path, checksums: bool = False) -> None:
    """Raise an exception if a file calls more than tensors need, swells, or is damaged.

    `checksums`: read it all to see a flipped bit, too.
    """
    with open(path, "rb") as file:
        is_zip = file.read(len(ZIP)) == ZIP  # torch decides by this, too
        file.seek(0)
        if not is_zip:  # from before torch 1.6
            for _ in range(LEGACY_PICKLES):
                _screen_pickle(file)
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise pickle.UnpicklingError("it is compressed")  # not by torch.save
            if len(set(archive.namelist())) < len(members) or members[0].header_offset:
                raise pickle.UnpicklingError("it is two archives in one")  # torch may read another
            if checksums and (damaged := archive.testzip()):
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            for member in members:
                if member.filename.endswith(".pkl"):
                    _screen_pickle(archive.read(member))


def _screen_pickle(source: bytes | BinaryIO) -> None:
    """Refuse calls that tensors do not need, and tuples in tuples, which torch.save never writes.

    One that is used twice doubles with every level, and a deep one overflows the stack, when it is
    hashed as a key.
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
