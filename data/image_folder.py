"""Finding and reading image files; every way in which that fails ends in a UserError."""

import contextlib
import difflib
import os
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from util.errors import UserError, one_line

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp")
IMG_EXTENSIONS = [ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]

ORIENTATION = 0x0112  # the EXIF tag
# Told by content, not by name. PIL knows more, among them PostScript, which is a program to run.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
PART = 1 << 20  # values at a time
# From half of its limit (178 million pixels) on PIL warns of every picture: these are legal here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def is_image_file(filename: str) -> bool:
    """Whether the name has the suffix of an image, in upper or lower case."""
    hidden_twin = os.path.basename(filename).startswith("._")  # macOS puts these into archives
    return filename.lower().endswith(SUFFIXES) and not hidden_twin


def make_dataset(dir: str, max_dataset_size: float = float("inf")) -> list[str]:
    """List the images under `dir`, in its sub-folders and behind symbolic links too.

    Args:
        dir: the folder; the paths returned begin with it.
        max_dataset_size: return no more than this many.

    Returns:
        Paths in the order of `sorted`.

    Raises:
        UserError: there is no such folder, it cannot be read, or it has no image in it.
    """
    if not os.path.isdir(dir):
        raise UserError(missing_folder(dir))
    paths = sorted(walk(dir))
    if not paths:
        raise UserError(
            f"the folder {dir} has no image in it or below it; {contents(dir)}. "
            f"Files count whose names end in {', '.join(SUFFIXES)}, upper or lower case"
        )
    return paths[: int(min(max_dataset_size, len(paths)))]


def walk(folder: str) -> Iterator[str]:
    """Yield the images under `folder`; a link back to a folder that we are in is not followed."""
    left: list[tuple[str, tuple]] = [(folder, ())]  # no recursion: folders may nest deeply
    while left:
        folder, above = left.pop()
        here, entries = _look_into(folder)
        for entry in entries if here not in above else ():
            if _is_folder(entry):
                left.append((entry.path, (*above, here)))
            elif is_image_file(entry.name):
                yield entry.path


def _look_into(folder: str) -> tuple[tuple[int, int], list[os.DirEntry]]:
    """What tells this folder from all others, and its content."""
    try:
        stat = os.stat(folder)
        return (stat.st_dev, stat.st_ino), list(os.scandir(folder))
    except OSError as error:
        raise UserError(
            f"cannot list the folder {one_line(folder)}: {error.strerror}; mend its permissions "
            "or remove it"
        ) from error


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def missing_folder(folder: str) -> str:
    """Say that a folder is missing, and what is there instead."""
    if os.path.exists(folder):
        return f"{folder} is a file, and a folder of images is needed; check --dataroot"
    missing, parent = folder.rstrip(os.sep), os.path.dirname(os.path.abspath(folder))
    while not os.path.isdir(parent):
        missing, parent = parent, os.path.dirname(parent)
    name = os.path.basename(missing)
    close = difflib.get_close_matches(name, folders_in(parent), n=1)
    hint = f" Did you mean {one_line(close[0])} instead of {name}?" if close else ""
    return f"there is no folder {folder}; {contents(parent)}.{hint} Check --dataroot and --phase"


def folders_in(folder: str) -> list[str]:
    """Names of the folders directly in `folder`."""
    with contextlib.suppress(OSError):
        return sorted(e.name for e in os.scandir(folder) if e.is_dir())
    return []


def contents(folder: str, most: int = 10) -> str:
    """A phrase that lists what is in a folder, for messages."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        return f"{folder} cannot be listed ({error.strerror})"
    return f"{folder} holds {one_line(shortened(names, most)) if names else 'nothing'}"


def shortened(names: list[str], most: int = 10) -> str:
    """The first `most` names, and the count of the others."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def two_folders(root: str, phase: str) -> tuple[str, str] | None:
    """The folders of A and of B: {phase}A and {phase}B, or A/{phase} and B/{phase}, if there."""
    root = root.rstrip(os.sep) or root
    for name_A, name_B in ((f"{phase}A", f"{phase}B"), (f"A/{phase}", f"B/{phase}")):
        folders = os.path.join(root, name_A), os.path.join(root, name_B)
        if all(map(os.path.isdir, folders)):
            return folders
    return None


def load_image(path: str, mode: str = "RGB") -> Image.Image:
    """Read an image file, upright, in 8 bits a channel.

    Args:
        path: the file; the orientation that its EXIF data give is applied.
        mode: "RGB" or "L". Transparency is dropped, values of 16 bits are scaled to 8.

    Raises:
        UserError: the file cannot be read as an image, with its path and the reason.
    """
    try:
        with Image.open(_no_pipe(path), formats=FORMATS) as image:
            image.load()
            with contextlib.suppress(Exception):  # damaged EXIF data: the pixels are still good
                if image.getexif().get(ORIENTATION, 1) != 1:  # else it would only be copied
                    image = ImageOps.exif_transpose(image)
            image = eight_bits(image)
            return image if image.mode == mode else image.convert(mode)  # copies cost time
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise UserError(
            f"cannot read the image {one_line(path)}: {reason(error)}; replace it or move it "
            "elsewhere"
        ) from error


def _no_pipe(path: str) -> str:
    """The path; OSError where reading it could wait forever."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError("it is a pipe or a device")
    return path


def default_loader(path: str) -> Image.Image:
    """`load_image` under the name that people's own datasets import."""
    return load_image(path)


def reason(error: Exception) -> str:
    """Why reading failed, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "this is no image file of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"{str(error).partition(',')[0]}, so make it smaller or cut it up"
    return getattr(error, "strerror", None) or one_line(error) or type(error).__name__


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values to 8 bits, which PIL's `convert` clips or truncates.

    Mode I holds 32 bits, in which some programs write what fits in 8: that is left as it is.
    """
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    scale = 1 if image.mode == "I" and values.max() <= 255 else 257
    rounded = np.empty(values.size, np.uint8)
    for start in range(0, values.size, PART):  # all at once in float64 takes gigabytes
        part = values.reshape(-1)[start : start + PART].astype(np.float64)
        rounded[start : start + PART] = (part / scale).round().clip(0, 255)
    return Image.fromarray(rounded.reshape(values.shape))
