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
    """The connection failed; another attempt may succeed."""


class Changed(Interrupted):
    """What is there does not belong to the server's file; another attempt starts over."""


def fetch(url: str, target: Path) -> Path:
    """Download `url` next to `target`, resuming what an earlier call left there.

    Returns:
        `target` with ".part" appended: complete as far as the server tells. The caller verifies
        it and then renames it, or calls `discard`.

    Raises:
        UserError: the server refuses, or several attempts in a row brought nothing new.
        OSError: the disk is full or not writable.
    """
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    most, failures = 0, 0
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
    _note_path(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path) -> None:
    note = _read_note(part)  # what the part is part of, so that two versions are never spliced
    offset = _size(part) if note.get("url") == url else 0
    if offset and note["total"] == offset:
        return
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and note["validator"]:
        headers["If-Range"] = note["validator"]
    try:
        with _network_errors(url):
            request = urllib.request.Request(url, headers=headers)
            response = urllib.request.urlopen(request, timeout=TIMEOUT)
        with response:
            if not offset or response.status != 206:  # it sends the whole file, asked or not
                part.open("wb").close()  # a note must never stand beside bytes of another version
                note = {"url": url, "validator": _validator(response), "total": response.length}
                with atomic_write(_note_path(part)) as file:
                    file.write(json.dumps(note).encode())
            elif not _continues(response, offset, note):
                raise Changed("the server has another file now")
            _append(url, response, part, note["total"])
    except Changed:
        discard(part)
        raise


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        answer = f"the server answers {error.code} {error.reason}"
        if error.code == 416:
            raise Changed(answer) from error
        if error.code in (408, 429) or error.code >= 500:
            raise Interrupted(answer) from error
        message = f"{url}: {answer}; check the address, or name a mirror with --base_url"
        raise UserError(message) from error
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _continues(response: http.client.HTTPResponse, offset: int, note: dict) -> bool:
    """Whether a 206 starts at `offset` of the same file; some servers ignore If-Range."""
    span, _, total = response.headers.get("Content-Range", "").partition("/")
    same_length = note["total"] is None or total in ("*", str(note["total"]))
    same_file = _validator(response) in (None, note["validator"])
    return span.startswith(f"bytes {offset}-") and same_length and same_file


def _append(url: str, response: http.client.HTTPResponse, part: Path, total: int | None) -> None:
    name, size = part.name.removesuffix(".part"), _size(part)
    bar = tqdm(desc=name, total=total, initial=size, unit="B", unit_scale=True, disable=None)
    with bar, part.open("ab") as file:
        while True:
            with _network_errors(url):
                chunk = response.read1(CHUNK)
            if not chunk:
                break
            bar.update(file.write(chunk))
    if total is not None and _size(part) != total:
        raise Interrupted(f"the connection ended after {_size(part)} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag", "W/")
    # a weak one does not promise equal bytes
    return response.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _note_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> dict:
    try:
        note = json.loads(_note_path(part).read_text())
        return note if note.keys() == {"url", "validator", "total"} else {}
    except (OSError, ValueError, AttributeError):
        return {}
