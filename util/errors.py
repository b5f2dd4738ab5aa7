"""The one exception that means "the user can mend this"."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# what moves the cursor, or the text: C0 and C1 but for the newline, separators, bidi controls
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake in what the user gave; programs end with its text and exit status 2.

    The text says what was wrong, with the path or the flag and its value, and what to do.
    """


class ImageSizeError(UserError):
    """A network cannot take an image of this size; who knows the image's name adds it."""


@contextmanager
def one_message() -> Iterator[None]:
    """Within this block a UserError ends the program; `distributed.run` does that for all ranks."""
    try:
        yield
    except UserError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(2)


def printable(text: str) -> str:
    """A message with control characters as escapes and lines after the first indented."""
    return CONTROLS.sub(_escape, text).replace("\n", "\n  ")


def one_line(name: object) -> str:
    """A name as one printable line, for messages, logs and tables."""
    return CONTROLS.sub(_escape, str(name)).replace("\n", "\\n")


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
