"""A block of memory that processes share, and how much memory there is.

The block has no name that could outlive it: once every process that holds it is gone, so is the
memory, even after kill -9.
"""

import mmap
import os
import secrets
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import reduction
from pathlib import Path
from typing import Any

from util import distributed
from util.errors import UserError

SHARED_FOLDER = "/dev/shm"  # files in memory, on Linux


class SharedBlock:
    """Bytes that the ranks of a machine and their workers see alike, at first zero.

    All ranks make it at the same time, with the same size. A worker gets it by fork, or pickled as
    spawn and forkserver do.
    """

    def __init__(self, size: int) -> None:
        """Reserve `size` bytes.

        Raises:
            UserError: there is not so much memory.
        """
        token = distributed.from_main(lambda: secrets.token_hex(8))  # one for the whole job
        try:
            if distributed.local_world_size() == 1:
                self._reserve(_without_name(), size)
            else:
                self._open_with_the_other_ranks(token, size)
        except OSError as error:
            raise UserError(
                f"--cache ram: {size_text(size)} of memory cannot be had ({error.strerror}); "
                "leave the flag out"
            ) from error

    def _reserve(self, file: int, size: int) -> None:
        """Have the memory now, rather than die where it is first written to."""
        weakref.finalize(self, os.close, file)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, size)
        elif os.fstat(file).st_size < size:
            os.truncate(file, size)
        self._map(file, size)

    def _map(self, file: int, size: int) -> None:
        self.file, self.size, self.bytes = file, size, mmap.mmap(file, size)

    def _open_with_the_other_ranks(self, token: str, size: int) -> None:
        """Whoever comes first makes the file; when all have it open, its name goes."""
        machine = distributed.rank() - distributed.local_rank()  # containers may share the folder
        path = os.path.join(_folder(), f"image-cache-{token}-{machine}")
        try:
            self._reserve(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), size)
            distributed.mean({"opened": 1.0})  # waits for all
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is being started: the open file, not what is in it."""
        return {"file": reduction.DupFd(self.file), "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The same block, in the worker."""
        self._map(state["file"].detach(), state["size"])


def _without_name() -> int:
    if hasattr(os, "memfd_create"):  # Linux; a container's small /dev/shm does not limit it
        return os.memfd_create("image-cache")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _folder() -> str:
    return SHARED_FOLDER if os.path.isdir(SHARED_FOLDER) else tempfile.gettempdir()


# ---- how much there is -----------------------------------------------------------------------


def available_memory() -> int:
    """Bytes that a SharedBlock may take: what machine, container and shared memory leave."""
    limits = [_free_in_machine(), *_free_in_cgroups()]
    if distributed.local_world_size() > 1:
        stat = os.statvfs(_folder())
        limits.append(stat.f_bavail * stat.f_frsize)
    return max(0, min(limits))


def _free_in_machine(meminfo: Path = Path("/proc/meminfo")) -> int:
    with suppress(OSError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # not Linux: a guess


def _free_in_cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path | None = None) -> Iterator[int]:
    """What each memory limit leaves that a container or a job is under (cgroups, 2 and 1).

    Args:
        root: where the kernel shows them.
        own: the list of groups that this process is in.
    """
    with suppress(OSError):
        for line in (own or Path("/proc/self/cgroup")).read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):
                yield from _free_above(root / controllers, group.strip("/"), new=not controllers)


def _free_above(root: Path, group: str, new: bool) -> Iterator[int]:
    """Of a group and of those it lies in; in a container the group's own name may be hidden."""
    limit, usage = (
        ("memory.max", "memory.current")
        if new
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    folder = root / group
    for place in (folder, *folder.parents):
        with suppress(OSError, ValueError):  # no such file; "max" is no number
            most, used = (int((place / name).read_text()) for name in (limit, usage))
            yield most - used + _file_cache(place / "memory.stat")
        if place == root:
            return


def _file_cache(stat: Path) -> int:
    """Bytes of files read earlier, which the kernel gives back when memory is short."""
    with suppress(OSError):
        counts = dict(line.split() for line in stat.read_text().splitlines())
        return int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
    return 0


def size_text(size: int) -> str:
    """A size as people write it: 3.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
