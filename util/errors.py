"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in what the user gave: a flag, a file, a folder.

    Its text is the whole message: what was wrong, with the path or the flag and its value, and
    what to do. Programs end with that message and exit status 2, without a traceback.
    """


class ImageSizeError(UserError):
    """A network cannot take an image of this size; who knows the image's name adds it."""
