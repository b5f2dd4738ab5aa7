"""The one exception that means "the user can mend this"."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
