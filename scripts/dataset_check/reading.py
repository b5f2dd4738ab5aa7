"""Reading one file, in a process of its own: what is wrong with it, its size, its fingerprint."""

import hashlib
import os
import stat
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.image_folder import FORMATS, load_image, reason
from scripts.dataset_check.findings import Finding
from scripts.dataset_check.listing import Picture
from util.errors import UserError

REPLACE = "replace it, or move it elsewhere"
DARK = 4096  # of 65536: a picture below it has 16 of 256 levels left


class Seen(NamedTuple):
    """What stays of a picture after reading it."""

    findings: list[Finding]
    size: tuple[int, int] | None = None  # (width, height) of the picture, or of one half of it
    digests: tuple[bytes, ...] = ()  # of its pixels; for two side by side, of A and of B


def read_picture(picture: Picture, colour: bool = False) -> Seen:
    """Read an image file as training does.

    Args:
        picture: the file; its side tells whether it holds two pictures.
        colour: whether a grey picture is of no use.
    """
    trouble = unreadable(picture.path)
    if trouble:
        return Seen([Finding(*trouble)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, on large pictures and odd files: we look ourselves
        try:
            image = load_image(picture.path)
        except UserError as error:
            return Seen([undecodable(picture.path, error.__cause__ or error)])
        findings = list(oddities(picture.path))
    if colour and is_grey(image):
        remedy = "remove it: it teaches that grey is the right answer"
        findings.append(Finding("no colours in it", picture.path, remedy, note=True))
    return measured(picture, image, findings)


def unreadable(path: str) -> tuple[str, str, str] | None:
    """The row of a file that need not be opened, or must not: opening a pipe waits for ever."""
    try:
        status = os.stat(path)
    except OSError as error:
        broken = os.path.islink(path)
        problem = "a link to nothing" if broken else f"unreadable: {error.strerror}"
        return problem, path, "mend the link, or remove it" if broken else REPLACE
    if not stat.S_ISREG(status.st_mode):
        return "no ordinary file", path, "remove it"
    return None if status.st_size else ("empty file", path, REPLACE)


def undecodable(path: str, error: BaseException) -> Finding:
    """Why an image could not be decoded."""
    if isinstance(error, PermissionError):
        return Finding("unreadable: no permission", path, "change its permissions")
    if isinstance(error, Image.DecompressionBombError):
        problem = f"too large: {str(error).partition(',')[0]}"
        return Finding(problem, path, "make it smaller, or cut it up")
    if "truncated" in str(error).lower():
        return Finding("truncated", path, REPLACE)
    return Finding(f"unreadable: {reason(error)}", path, REPLACE)


def oddities(path: str) -> Iterator[Finding]:
    """What does not come through, or may be unexpected, when the file is read as 8-bit RGB."""
    with Image.open(path, formats=FORMATS) as image:
        large = Image.MAX_IMAGE_PIXELS or image.width * image.height
        if image.width * image.height > large:
            yield Finding("very large", path, "shrink it: each reading takes seconds", note=True)
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a photo and its preview
            yield Finding("several pictures in one file", path, "none: the first counts", note=True)
        if image.mode in ("RGB", "L") and "transparency" not in image.info:
            return
        image.load()
        for problem, remedy, note in odd_mode(image):
            yield Finding(problem, path, remedy, note)


def odd_mode(image: Image.Image) -> Iterator[tuple[str, str, bool]]:
    """(problem, remedy, whether it is only a note) for what is not 8-bit RGB or grey."""
    if image.mode.startswith(("I", "F")):
        yield deep(image.mode, np.asarray(image))
    elif image.mode == "CMYK":
        remedy = "convert it to RGB: here its colours are read without their profile"
        yield "CMYK, the colours of printing", remedy, False
    elif "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        yield transparency(image)
    elif image.mode == "P":
        yield "palette colours", "none: read as RGB", True
    else:
        yield f"mode {image.mode}", "none: read as RGB", True


def transparency(image: Image.Image) -> tuple[str, str, bool]:
    """Dropping the alpha channel shows what was hidden behind it."""
    if image.convert("RGBA").getchannel("A").getextrema()[0] == 255:
        return "alpha channel", "none: all is opaque, alpha is dropped", True
    return "transparent", "flatten it: alpha is dropped, and what it hides is shown", False


def deep(mode: str, values: np.ndarray) -> tuple[str, str, bool]:
    """Numbers of more than 8 bits: `data.image_folder.eight_bits` scales whole ones by 1/257."""
    low, high = float(values.min()), float(values.max())
    convert, bits = "convert it to 8 bits: ", "16-bit" if mode != "I" else "32-bit"
    if mode == "F":
        fits = low >= 0 and 1 < high <= 255
        if fits:
            return "floating point", "none: the values fit into 8 bits", True
        return "floating point", convert + "values are cut to 0 to 255", False
    if low < 0 or high > 65535:
        return f"{bits} out of range", convert + "values are cut to 0 to 65535", False
    if mode == "I" and high <= 255:
        return "32-bit", "none: the values fit into 8 bits", True
    if high < DARK:
        problem = f"{bits}, and nearly black: all values are below {DARK}"
        return problem, convert + "65535 counts as white", False
    return f"{bits} grey", "none: scaled to 8 bits", True


def is_grey(image: Image.Image) -> bool:
    """Whether red, green and blue are equal everywhere."""
    red, green, blue = (channel.tobytes() for channel in image.split())
    return red == green == blue


def measured(picture: Picture, image: Image.Image, findings: list[Finding]) -> Seen:
    """Size and fingerprints of a picture that could be read."""
    if picture.side != "AB":
        return Seen(findings, image.size, (digest(image),))
    if image.width % 2:
        problem = f"odd width {image.width}: A and B are not equally wide"
        remedy = "combine the two again: the last column is dropped, and B may be shifted"
        findings.append(Finding(problem, picture.path, remedy))
    half, height = image.width // 2, image.height
    if not half:
        return Seen(findings)
    sides = [image.crop((x, 0, x + half, height)) for x in (0, half)]
    return Seen(findings, (half, height), tuple(map(digest, sides)))


def digest(image: Image.Image) -> bytes:
    """16 bytes that are equal for equal pixels and, in practice, for these only."""
    return hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).digest()


def read_ignored(path: str) -> Seen:
    """A file that no dataset reads because of its name: is it an image after all?"""
    if unreadable(path):
        return Seen([])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=FORMATS) as image:
                remedy = f"rename it, if it belongs to the data (it is {image.format})"
        except Exception:  # no image: nobody expects it to be read
            return Seen([])
    return Seen([Finding("a picture that is passed over for its suffix", path, remedy, note=True)])
