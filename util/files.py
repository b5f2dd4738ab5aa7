"""Writing files so that a reader never sees half of one, and saying why if it cannot be done."""

import errno
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from util.errors import UserError, one_line


@contextmanager
def atomic_write(path: str | os.PathLike[str], durable: bool = False) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once it is complete.

    With `durable` it waits until the disk has it, so that not even a power cut loses it.
    """
    path = Path(path)
    unfinished = _unfinished(path)
    try:
        with open(unfinished, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
        if durable:
            _flush_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink()
        raise


def copy(source: Path, path: Path) -> None:
    """Copy a whole file, at once."""
    with open(source, "rb") as old, atomic_write(path, durable=True) as new:
        shutil.copyfileobj(old, new)


def link(source: Path, path: Path) -> None:
    """A copy that shares the space where the disk can: replace both, never write in place."""
    unfinished = _unfinished(path)
    unfinished.unlink(missing_ok=True)
    try:
        os.link(source, unfinished)
    except OSError:
        return copy(source, path)
    os.replace(unfinished, path)
    unfinished.unlink(missing_ok=True)  # renaming a link to what is linked already does nothing
    _flush_folder(path.parent)


def _unfinished(path: Path) -> Path:
    """A name of its own, that is not too long where that of `path` is not."""
    return path.with_name(f".{os.urandom(4).hex()}{path.suffix[:10]}.tmp")


def remove_unfinished(folder: Path, older_than: float = 0) -> None:
    """Remove what a killed program was writing, `older_than` seconds ago; nobody else may write."""
    for path in folder.glob(f".{'[0-9a-f]' * 8}*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime >= older_than:
                path.unlink()


@contextmanager
def locked(path: Path, thing: object, remedy: str) -> Iterator[None]:
    """Hold a lock for the length of a block; UserError with the holder's name if it is not free.

    `path` is a file that is there in the meantime; the kernel frees the lock when the process ends,
    however it does. Where files cannot be locked (Windows, some network disks) nothing is.
    """
    with explain_write_errors(path, remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # not what a link leads to
        file = open(os.open(path, flags, 0o666), "r+", encoding="utf-8", errors="replace")
    with file:
        if not _lock(file) or not _is_at(path, file):  # the holder may just have removed it
            file.seek(0)
            holder = one_line(file.read()) or "another program"
            raise UserError(f"{thing} is in use by {holder}; wait for its end, or {remedy}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _lock(file: TextIO) -> bool:
    """Whether no other process has locked the file; workers, which are forked, share no lock."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _is_at(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _flush_folder(folder: Path) -> None:
    """Wait until the disk has the names in it; some systems cannot open a folder, or flush it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise


@contextmanager
def explain_write_errors(path: str | os.PathLike[str], remedy: str = "") -> Iterator[None]:
    """Turn a failed write of `path` into a UserError that says why and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as caught:
        error: BaseException = caught
        while not isinstance(error, OSError) and error.__context__:  # torch's writer stumbles over
            error = error.__context__  # a full disk once more, with a RuntimeError about positions
        reason = getattr(error, "strerror", None) or str(caught).partition("\n")[0]
        mend = "free some space, mend the permissions"
        if isinstance(error, FileNotFoundError) and not Path(path).parent.exists():
            reason, mend = f"the folder {Path(path).parent} is not there", "put it back"
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            reason, mend = f"{error.filename} is no folder", "rename that file"
        remedy = remedy or "choose another place (--checkpoints_dir, --results_dir)"
        raise UserError(f"cannot write {path}: {reason}; {mend}, or {remedy}") from None


def encoded(text: str) -> bytes:
    """UTF-8, with the bytes of file names that are no valid Unicode as they were."""
    return text.encode("utf-8", "surrogateescape")
