"""Download one file over HTTP, resuming an earlier attempt by a Range request (RFC 9110, 14)."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from util.errors import UserError
from util.files import atomic_write

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing new
WAIT = 1.0  # seconds before the second attempt; doubles from there


class Interrupted(Exception):
    """Another attempt may succeed, from where this one ended."""


def fetch(url: str, target: Path) -> Path:
    """Download `url` to `target` with ".part" appended, resuming what an earlier call left there.

    The caller verifies what is returned, and renames it or calls `discard`.

    Raises:
        UserError: the server refuses, or several attempts in a row brought nothing new.
        OSError: the disk is full or not writable.
    """
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    most = failures = 0
    while True:
        try:
            _attempt(url, part)
            return part
        except Interrupted as error:
            size = _size(part)
            failures, most = 1 if size > most else failures + 1, max(most, size)
            if failures == ATTEMPTS:
                kept = f"; {size} bytes are kept in {part}, the same command resumes there"
                raise UserError(
                    f"cannot download {url}: {error}{kept if size else ''}. "
                    "Check the network, or name a mirror with --base_url"
                ) from error
        time.sleep(WAIT * 2 ** (failures - 1))


def discard(part: Path) -> None:
    """Remove a partial file and its note."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path) -> None:
    # what the part is part of, so that two versions are never spliced
    note = json.loads(_note(part).read_text()) if _note(part).exists() else {}
    offset = _size(part) if note.get("url") == url else 0
    if offset and note["total"] == offset:
        return
    headers = {}
    if offset and note["validator"]:
        headers = {"Range": f"bytes={offset}-", "If-Range": note["validator"]}
    with _network_errors(url, part):
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    with response:
        etag = response.headers.get("ETag", "W/")  # a weak one does not promise equal bytes
        version = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        if not headers or response.status != 206:  # it sends the whole file, asked or not
            part.open("wb").close()  # a note must never stand beside bytes of another version
            note = {"url": url, "validator": version, "total": response.length}
            with atomic_write(_note(part)) as file:
                file.write(json.dumps(note).encode())
        elif version not in (None, note["validator"]):  # some servers ignore If-Range
            discard(part)
            raise Interrupted("the server has another file now")
        _append(url, response, part, note["total"])


def _append(url: str, response: http.client.HTTPResponse, part: Path, total: int | None) -> None:
    bar = tqdm(desc=part.stem, total=total, initial=_size(part), unit="B", unit_scale=True,
               disable=None)  # fmt: skip
    chunk = b"-"
    with bar, part.open("ab") as file:
        while chunk:
            with _network_errors(url, part):
                chunk = response.read1(CHUNK)
            bar.update(file.write(chunk))
    if total is not None and _size(part) != total:
        raise Interrupted(f"the connection ended after {_size(part)} of {total} bytes")


@contextmanager
def _network_errors(url: str, part: Path) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        answer = f"the server answers {error.code} {error.reason}"
        if error.code == 416:  # the file is shorter now
            discard(part)
        if error.code in (408, 416, 429) or error.code >= 500:
            raise Interrupted(answer) from error
        message = f"{url}: {answer}; check the address, or name a mirror with --base_url"
        raise UserError(message) from error
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")
