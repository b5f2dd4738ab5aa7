"""Finding and reading image files; every way in which that fails ends in a UserError."""

import contextlib
import difflib
import os
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from util.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp")
IMG_EXTENSIONS = [ending for suffix in SUFFIXES for ending in (suffix, suffix.upper())]


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


def walk(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the images under `folder`; a link back to a folder that we are in is not followed."""
    here = os.path.realpath(folder)
    if here in above:
        return
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(
            f"cannot list the folder {folder}: {error.strerror}; mend its permissions or remove it"
        ) from error
    for entry in entries:
        if entry.is_dir():
            yield from walk(entry.path, (*above, here))
        elif is_image_file(entry.name):
            yield entry.path


def missing_folder(folder: str) -> str:
    """Say that a folder is missing, and what is there instead."""
    if os.path.exists(folder):
        return f"{folder} is a file, and a folder of images is needed; check --dataroot"
    missing, parent = folder.rstrip(os.sep), os.path.dirname(os.path.abspath(folder))
    while not os.path.isdir(parent):
        missing, parent = parent, os.path.dirname(parent)
    name = os.path.basename(missing)
    close = difflib.get_close_matches(name, folders_in(parent), n=1)
    hint = f" Did you mean {close[0]} instead of {name}?" if close else ""
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
    return f"{folder} holds {shortened(names, most) if names else 'nothing'}"


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
        with Image.open(path) as image:
            image.load()
            with contextlib.suppress(Exception):  # damaged EXIF data: the pixels are still good
                image = ImageOps.exif_transpose(image)
            return eight_bits(image).convert(mode)
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        raise UserError(
            f"cannot read the image {path}: {reason(error)}; replace it or move it elsewhere"
        ) from error


def default_loader(path: str) -> Image.Image:
    """`load_image` under the name that people's own datasets import."""
    return load_image(path)


def reason(error: Exception) -> str:
    """Why reading failed, in a few words."""
    if isinstance(error, UnidentifiedImageError):
        return "this is no image file of a known format"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey values to 8 bits, which PIL's `convert` clips or truncates.

    Mode I holds 32 bits, in which some programs write what fits in 8: that is left as it is.
    """
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64)
    scale = 1 if image.mode == "I" and values.max() <= 255 else 257
    return Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8))
