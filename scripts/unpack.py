"""Unpack a stranger's zip or tar.gz: whole and inside one folder, or not at all."""

import errno
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
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
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,  # tables of tarfile and zipfile
    ArithmeticError,  # sizes
    AttributeError,  # tarfile, at a header that says it is sparse and is not
    TypeError,
    RuntimeError,  # a zip with a password or an unknown compression
    ValueError,  # names or sizes that make no sense
    MemoryError,
)
# too long, or of a file that is also a folder
NO_NAME = {errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EINVAL}
MOST_MEMBERS = 1_000_000  # their names are kept in memory
MOST_AT_ONCE = 1 << 22  # bytes; longer are only false headers of a tar
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


class _Careful:
    """A stream that tarfile reads from: it would follow a false header to any place and size."""

    def __init__(self, stream: BinaryIO, most: int):
        self.stream, self.most = stream, most
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_AT_ONCE:
            raise tarfile.ReadError("a header of impossible size")
        if self.stream.tell() > self.most:
            raise UserError(TOO_LARGE.format(self.most))
        return self.stream.read(size)

    def seek(self, place: int) -> int:
        if place < 0 or place > self.most + tarfile.RECORDSIZE:
            raise UserError(TOO_LARGE.format(self.most))
        return self.stream.seek(place)


TOO_LARGE = "unpacked it takes more than {:,} bytes, nine tenths of what the disk has free"


def unpack(archive: Path, target: Path, suffix: str) -> None:
    """Unpack `archive` so that its content (its folder `target.name`, if it has one) is `target`.

    The whole archive is read and checked first. Files are written by hand into a temporary
    folder, which is then renamed: no links, owners or permission bits come from the archive.

    Args:
        archive: the file; its own name does not matter.
        target: a folder that does not exist yet, in one that does.
        suffix: ".zip" or ".tar.gz".

    Raises:
        UserError: damaged or truncated, larger than what the disk has free, or an entry that
            could land outside `target`.
        OSError: the disk is full or not writable.
    """
    try:
        with OPENERS[suffix](archive, _room(target.parent)) as members:
            _refuse_hostile(members)
            _write_all(members, target)
    except DAMAGED as error:
        raise UserError(f"not a whole {suffix} archive ({error})") from error


def _room(folder: Path) -> int:
    return shutil.disk_usage(folder).free * 9 // 10


def _sound_zip(path: Path, room: int) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
        _refuse_too_large((info.file_size for info in archive.infolist()), room)
        damaged = archive.testzip()
    except OSError as error:  # zipfile follows a damaged offset to before the file
        raise zipfile.BadZipFile(str(error)) from error
    if damaged:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged!r}")
    return archive


@contextmanager
def _open_zip(path: Path, room: int) -> Iterator[list[Member]]:
    with _sound_zip(path, room) as archive:
        yield [
            Member(info.filename, _zip_kind(info), partial(archive.open, info))
            for info in archive.infolist()
        ]


@contextmanager
def _open_tar(path: Path, room: int) -> Iterator[list[Member]]:
    with gzip.open(path) as stream:
        careful = _Careful(stream, 2 * room)  # with headers and padding
        with tarfile.open(fileobj=careful, mode="r:") as archive:
            members = []
            _refuse_too_large((_note(info, archive, members) for info in _onwards(archive)), room)
            careful.seek(archive.offset)
            if careful.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends in the middle")  # tarfile itself stays silent here
            while careful.read(1 << 20):  # the checksum is behind the last byte
                pass
            yield members


def _onwards(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members; some versions of tarfile follow a negative size back, again and again."""
    place = 0
    for info in archive:
        if archive.offset <= place:
            raise tarfile.ReadError("a header leads back to an earlier one")
        place = archive.offset
        yield info


def _note(info: tarfile.TarInfo, archive: tarfile.TarFile, members: list[Member]) -> int:
    """Append the member, and return its size."""
    kind = TAR_KINDS.get(info.type, "device")
    members.append(Member(info.name, kind, partial(archive.extractfile, info)))
    return info.size


def _refuse_too_large(sizes: Iterable[int], room: int) -> None:
    """Add up the sizes that an archive gives; a compressed one unpacks to a thousand times it."""
    total = 0
    for number, size in enumerate(sizes, start=1):
        total += size
        if size < 0 or number > MOST_MEMBERS:
            raise ValueError("it has impossible sizes or too many files")
        if total > room:
            raise UserError(TOO_LARGE.format(room))


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
    return bool(path.drive or path.root or ".." in path.parts or not path.parts)


def _write_all(members: list[Member], target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        root = Path(scratch) / "content"
        for member in tqdm(members, desc="unpacking", unit="file", disable=None):
            try:
                _write(member, root / member.name)
            except OSError as error:
                if error.errno in NO_NAME:
                    raise ValueError(f"{member.name!r}: {error.strerror}") from error
                raise
        inner = root / target.name
        os.rename(inner if inner.is_dir() else root, target)


def _write(member: Member, path: Path) -> None:
    if member.kind == "folder":
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, path.open("wb") as file:
        shutil.copyfileobj(source, file)
