"""Unpack a stranger's zip or tar.gz: whole and inside one folder, or not at all."""

import errno
import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from tqdm import tqdm

from util.errors import UserError

# a name that is too long, or of a file that is also a folder
NO_NAME = {errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EINVAL}
MOST_MEMBERS = 1_000_000  # their names are kept in memory
MOST_AT_ONCE = 1 << 22  # bytes; a header of a tar that asks for more is false
TOO_LARGE = "unpacked it takes more than {:,} bytes, nine tenths of what the disk has free"
KINDS = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symbolic link"}


def unpack(archive: Path, target: Path, suffix: str) -> None:
    """Unpack `archive` so that its content (its folder `target.name`, if it has one) is `target`.

    The whole archive is read and checked before anything is written, to a temporary folder that is
    then renamed. No links, owners or set-user-ID bits come from the archive.

    Args:
        archive: the file; its own name does not matter.
        target: a folder that does not exist yet, in one that does.
        suffix: ".zip" or ".tar.gz".

    Raises:
        UserError: damaged or truncated, larger than what the disk has free, or with an entry that
            could land outside `target`.
        OSError: the disk is full or not writable.
    """
    check, extract = (_check_zip, _extract_zip) if suffix == ".zip" else (_check_tar, _extract_tar)
    try:
        check(archive, shutil.disk_usage(target.parent).free * 9 // 10)
    except UserError:
        raise
    except Exception as error:  # zipfile and tarfile raise nearly anything at a damaged file
        raise UserError(f"not a whole {suffix} archive ({error})") from error
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        root = Path(scratch) / "content"
        try:
            extract(archive, root)
        except OSError as error:
            if error.errno not in NO_NAME:
                raise
            raise UserError(f"it holds a name that cannot be written ({error})") from error
        inner = root / target.name
        os.rename(inner if inner.is_dir() else root, target)


def check_python(suffix: str) -> None:
    """Raise UserError if this Python cannot unpack such an archive safely."""
    if suffix == ".tar.gz" and not hasattr(tarfile, "data_filter"):
        raise UserError(
            "this Python cannot unpack a tar.gz safely; use Python 3.10.12, 3.11.4 or newer"
        )


def _check_zip(path: Path, room: int) -> None:
    with zipfile.ZipFile(path) as archive:
        _check_members(((i.filename, _zip_kind(i), i.file_size) for i in archive.infolist()), room)
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"wrong checksum of {damaged!r}")


def _zip_kind(info: zipfile.ZipInfo) -> str:
    kind = KINDS.get(stat.S_IFMT(info.external_attr >> 16), "device")
    return "folder" if kind == "file" and info.is_dir() else kind


def _extract_zip(path: Path, root: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(root, _bar(archive.infolist()))


class _Onwards:
    """What tarfile reads from: it would follow a false header to any size, and back."""

    def __init__(self, stream: BinaryIO, most: int):
        self.stream, self.most, self.tell = stream, most, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise tarfile.ReadError("a header of impossible size")
        self.last = self.stream.read(size)
        return self.last

    def seek(self, place: int) -> int:
        if place < self.tell():
            raise tarfile.ReadError("a header leads back to an earlier one")
        if place > self.most:
            raise UserError(TOO_LARGE.format(self.most))
        return self.stream.seek(place)


def _check_tar(path: Path, room: int) -> None:
    with gzip.open(path) as stream:
        onwards = _Onwards(stream, 2 * room)  # with headers and padding
        with tarfile.open(fileobj=onwards, mode="r:") as archive:
            _check_members(((info.name, _tar_kind(info), info.size) for info in archive), room)
        if onwards.last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it ends in the middle")  # tarfile itself stays silent here
        while stream.read(1 << 20):  # the checksum is behind the last byte
            if stream.tell() > 2 * room:
                raise UserError(TOO_LARGE.format(room))


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "symbolic link" if info.issym() else "hard link"
    return "folder" if info.isdir() else "file" if info.isreg() else "device"


def _extract_tar(path: Path, root: Path) -> None:
    with tarfile.open(path, "r:gz") as archive:
        archive.extractall(root, _bar(archive.getmembers()), filter="data")


def _bar(members: list) -> Iterable:
    return tqdm(members, desc="unpacking", unit="file", disable=None)


def _check_members(members: Iterable[tuple[str, str, int]], room: int) -> None:
    """Raise for an entry (name, kind, size) that is not a file or folder inside, and for a bomb."""
    total = files = 0
    for number, (name, kind, size) in enumerate(members, start=1):
        if kind not in ("file", "folder"):
            raise UserError(f"the archive holds a {kind}, {name!r}: not unpacked")
        path = PureWindowsPath(name)  # knows both separators and drive letters
        if path.drive or path.root or ".." in path.parts or not path.parts:
            raise UserError(f"the archive reaches out of its folder, {name!r}: not unpacked")
        total, files = total + size, files + (kind == "file")
        if size < 0 or number > MOST_MEMBERS:
            raise ValueError("it has impossible sizes or too many files")
        if total > room:
            raise UserError(TOO_LARGE.format(room))
    if not files:
        raise UserError("the archive holds no files")
