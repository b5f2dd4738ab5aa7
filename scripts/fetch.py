"""Download one file over HTTP, going on where an earlier attempt stopped (RFC 9110, section 14)."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from util.errors import UserError

CHUNK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing new
WAIT = 1.0  # seconds before the second attempt; doubles from there


class Interrupted(Exception):
    """The connection failed; another attempt may succeed."""


class Note(NamedTuple):
    """What a partial file is part of; kept beside it, so that two versions are never spliced."""

    url: str
    validator: str | None  # strong ETag, else Last-Modified: the value for If-Range
    total: int | None  # bytes of the whole file


def fetch(url: str, target: Path) -> Path:
    """Download `url` next to `target`, resuming what an earlier call left there.

    Returns:
        `target` with ".part" appended: complete as far as the server tells. The caller verifies
        it and then renames it, or calls `discard`.

    Raises:
        UserError: the server refuses, or several attempts in a row brought nothing new.
        OSError: the disk is full or not writable.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    most, failures = 0, 0
    while True:
        try:
            _attempt(url, part)
            return part
        except Interrupted as error:
            failures = 1 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures == ATTEMPTS:
                raise UserError(_give_up(url, part, error)) from error
        time.sleep(WAIT * 2 ** (failures - 1))


def discard(part: Path) -> None:
    """Remove a partial file and its note."""
    part.unlink(missing_ok=True)
    _note_path(part).unlink(missing_ok=True)


def _give_up(url: str, part: Path, error: Interrupted) -> str:
    kept = f"; {_size(part)} bytes are kept in {part}, the same command goes on from there"
    return (
        f"cannot download {url}: {error}{kept if _size(part) else ''}. "
        "Check the network, or name a mirror with --base_url"
    )


def _attempt(url: str, part: Path) -> None:
    note = _read_note(url, part)
    offset = _size(part) if note else 0
    if note and note.total == offset:
        return
    response = _open(url, offset, note)
    if response is None:
        discard(part)
        response = _open(url, 0, None)
    with response:
        if offset == 0 or response.status != 206:  # it sends the whole file, asked or not
            offset, note = 0, _write_note(url, part, response)
        _append(response, part, offset, note.total)


def _open(url: str, offset: int, note: Note | None) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `offset`; None where the rest of the noted file is not to be had."""
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and note.validator:
        headers["If-Range"] = note.validator
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:
            return None
        if error.code in (408, 429) or error.code >= 500:
            raise Interrupted(f"the server answers {error.code} {error.reason}") from error
        raise UserError(
            f"{url}: the server answers {error.code} {error.reason}; "
            "check the address, or name a mirror with --base_url"
        ) from error
    except urllib.error.URLError as error:
        raise Interrupted(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(error) or type(error).__name__) from error
    if offset and response.status == 206 and not _continues(response, offset, note):
        response.close()
        return None
    return response


def _continues(response: http.client.HTTPResponse, offset: int, note: Note) -> bool:
    """Whether a 206 starts at `offset` of the same file; some servers ignore If-Range."""
    span, _, total = response.headers.get("Content-Range", "").partition("/")
    same_length = note.total is None or total in ("*", str(note.total))
    same_file = _validator(response) in (None, note.validator)
    return span.startswith(f"bytes {offset}-") and same_length and same_file


def _append(response, part: Path, offset: int, total: int | None) -> None:
    bar = tqdm(
        desc=part.name.removesuffix(".part"),
        total=total,
        initial=offset,
        unit="B",
        unit_scale=True,
        disable=None,
    )
    with bar, part.open("ab") as file:
        for chunk in _chunks(response):
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise Interrupted(f"the connection ended after {_size(part)} of {total} bytes")


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(str(error) or type(error).__name__) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):  # a weak one does not promise equal bytes
        return etag
    return response.headers.get("Last-Modified")


def _note_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(url: str, part: Path) -> Note | None:
    try:
        note = Note(**json.loads(_note_path(part).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return note if note.url == url else None


def _write_note(url: str, part: Path, response: http.client.HTTPResponse) -> Note:
    """Empty the part first: a note must never stand beside bytes of another version."""
    part.open("wb").close()
    note = Note(url, _validator(response), response.length)
    _note_path(part).write_text(json.dumps(note._asdict()))
    return note
