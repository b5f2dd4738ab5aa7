"""Unpack a stranger's zip or tar.gz: whole and inside one folder, or not at all."""

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from util.errors import UserError

DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,  # a zip with a password or an unknown compression
    ValueError,  # names or sizes that make no sense
)
ZIP_KINDS = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link"}
TAR_KINDS = {
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symbolic link",
    tarfile.LNKTYPE: "hard link",
    **dict.fromkeys(tarfile.REGULAR_TYPES, "file"),
}


class Member(NamedTuple):
    """One entry of an archive."""

    name: str
    kind: str  # "file" and "folder" are welcome, anything else is not
    open: Callable[[], BinaryIO]


def unpack(archive: Path, target: Path, suffix: str) -> None:
    """Unpack `archive` so that its content (its folder `target.name`, if it has one) is `target`.

    The whole archive is read and checked first. Files are written by hand into a temporary
    folder, which is then renamed: no links, owners or permission bits come from the archive.

    Args:
        archive: the file; its own name does not matter.
        target: a folder that does not exist yet, in one that does.
        suffix: ".zip" or ".tar.gz".

    Raises:
        UserError: damaged or truncated, or an entry that could land outside `target`.
        OSError: the disk is full or not writable.
    """
    try:
        with OPENERS[suffix](archive) as members:
            _refuse_hostile(members)
            _write_all(members, target)
    except DAMAGED as error:
        raise UserError(f"not a whole {suffix} archive ({error})") from error


def _sound_zip(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
        damaged = archive.testzip()
    except OSError as error:  # zipfile follows a damaged offset to before the file
        raise zipfile.BadZipFile(str(error)) from error
    if damaged:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    return archive


@contextmanager
def _open_zip(path: Path) -> Iterator[list[Member]]:
    with _sound_zip(path) as archive:
        yield [
            Member(info.filename, _zip_kind(info), partial(archive.open, info))
            for info in archive.infolist()
        ]


@contextmanager
def _open_tar(path: Path) -> Iterator[list[Member]]:
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        infos = archive.getmembers()
        stream.seek(archive.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends in the middle")  # tarfile itself stays silent here
        while stream.read(1 << 20):  # the checksum is behind the last byte
            pass
        yield [
            Member(
                info.name, TAR_KINDS.get(info.type, "device"), partial(archive.extractfile, info)
            )
            for info in infos
        ]


OPENERS = {".zip": _open_zip, ".tar.gz": _open_tar}


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = ZIP_KINDS.get(stat.S_IFMT(info.external_attr >> 16), "device")
    return "folder" if kind == "file" and info.is_dir() else kind


def _refuse_hostile(members: list[Member]) -> None:
    if not any(member.kind == "file" for member in members):
        raise UserError("the archive holds no files")
    for member in members:
        if member.kind not in ("file", "folder"):
            raise UserError(f"the archive holds a {member.kind}, {member.name!r}: not unpacked")
        if _leaves(member.name):
            raise UserError(f"the archive reaches out of its folder, {member.name!r}: not unpacked")


def _leaves(name: str) -> bool:
    path = PureWindowsPath(name)  # knows both separators and drive letters
    return bool(path.drive or path.root or ".." in path.parts)


def _write_all(members: list[Member], target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        root = Path(scratch) / "content"
        for member in tqdm(members, desc="unpacking", unit="file", disable=None):
            _write(member, root / member.name)
        inner = root / target.name
        os.rename(inner if inner.is_dir() else root, target)


def _write(member: Member, path: Path) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, path.open("wb") as file:
        shutil.copyfileobj(source, file)
