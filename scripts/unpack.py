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

from tqdm import tqdm

from util.errors import UserError

MOST_MEMBERS = 1_000_000  # their names are kept in memory
MOST_AT_ONCE = 1 << 22  # bytes; a header of a tar that asks for more is false
# a name that is too long, or of a file that is also a folder; None: gzip's own errors
NOT_OF_THE_DISK = {
    None,
    errno.ENAMETOOLONG,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EINVAL,
}


def unpack(archive: Path, target: Path, suffix: str) -> None:
    """Unpack `archive` so that its content (its folder `target.name`, if it has one) is `target`.

    The whole archive is read and checked before anything is written, to a temporary folder that is
    then renamed. No links, owners or set-user-ID bits come from the archive.

    Args:
        archive: a file of any name.
        target: a folder that does not exist yet, in one that does.
        suffix: ".zip" or ".tar.gz".

    Raises:
        UserError: damaged or truncated, larger than what the disk has free, or with an entry that
            could land outside `target`.
        OSError: the disk is full or not writable.
    """
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        root = Path(scratch) / "content"
        try:
            (_unpack_zip if suffix == ".zip" else _unpack_tar)(archive, root)
        except UserError:
            raise
        except Exception as error:  # zipfile and tarfile raise nearly anything at a damaged file
            if isinstance(error, OSError) and error.errno not in NOT_OF_THE_DISK:
                raise
            raise UserError(f"not a whole {suffix} archive ({error})") from error
        inner = root / target.name
        os.rename(inner if inner.is_dir() else root, target)


def _unpack_zip(path: Path, root: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        types = [stat.S_IFMT(info.external_attr >> 16) for info in members]
        plain = [kind in (0, stat.S_IFREG, stat.S_IFDIR) for kind in types]
        names, sizes = [i.filename for i in members], [i.file_size for i in members]
        _check_members(zip(names, plain, sizes, strict=True), root)
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"wrong checksum of {damaged!r}")
        archive.extractall(root, tqdm(members, desc="unpacking", unit="file", disable=None))


class _Onwards(gzip.GzipFile):
    """A tar.gz for tarfile, which would follow a false header to any size, and back."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MOST_AT_ONCE:
            raise tarfile.ReadError("a header of impossible size")
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET and offset < self.tell():
            raise tarfile.ReadError("a header leads back to an earlier one")
        return super().seek(offset, whence)


def _unpack_tar(path: Path, root: Path) -> None:
    with _Onwards(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        _check_members(((i.name, i.isreg() or i.isdir(), i.size) for i in archive), root)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # the second of two
            raise tarfile.ReadError("it ends in the middle")  # tarfile itself stays silent here
        while stream.read(MOST_AT_ONCE):  # the checksum is behind the last byte
            pass
    with tarfile.open(path, "r:gz") as archive:
        members = tqdm(archive.getmembers(), desc="unpacking", unit="file", disable=None)
        archive.extractall(root, members, filter="data")


def _check_members(members: Iterable[tuple[str, bool, int]], root: Path) -> None:
    """Raise UserError for a bomb or a bad (name, is a file or folder, size)."""
    room, total = shutil.disk_usage(root.parent).free * 9 // 10, 0
    for number, (name, plain, size) in enumerate(members, start=1):
        path = PureWindowsPath(name)  # knows both separators and drive letters
        if not plain or path.drive or path.root or ".." in path.parts or not path.parts:
            raise UserError(f"it holds {name!r}, a link, device or way out of it: not unpacked")
        total += size
        if total > room or number > MOST_MEMBERS:
            raise UserError(
                f"unpacked it takes more than {room:,} bytes, nine tenths of what the disk has "
                f"free, or has more than {MOST_MEMBERS:,} files"
            )
    if not total:
        raise UserError("the archive holds no files")
