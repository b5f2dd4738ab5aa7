"""The one exception that means "the user can mend this"."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# what moves the cursor, or the text: C0 and C1 but for the newline, separators, bidi controls
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class UserError(Exception):
    """A mistake in what the user gave: a flag, a file, a folder.

    Its text is the whole message: what was wrong, with the path or the flag and its value, and
    what to do. Programs end with that message and exit status 2, without a traceback.
    """


class ImageSizeError(UserError):
    """A network cannot take an image of this size; who knows the image's name adds it."""


@contextmanager
def one_message() -> Iterator[None]:
    """Within this block, a program's whole run, a UserError is its message and exit status 2.

    For the small programs in scripts/; train.py and test.py have `distributed.run`, which speaks
    for all ranks.
    """
    try:
        yield
    except UserError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(2)


def printable(text: str) -> str:
    """A message for people in which no name can drive the terminal or fake a line of ours.

    Args:
        text: may hold names of files, in which anything can stand.

    Returns:
        The text with controls as escapes; lines after the first are indented.
    """
    return CONTROLS.sub(_escape, text).replace("\n", "\n  ")


def one_line(name: object) -> str:
    """A name as one printable line, for messages, logs and tables."""
    return CONTROLS.sub(_escape, str(name)).replace("\n", "\\n")


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
