"""Reading and writing image files, each as what it is: its type of number, its channels, its pages.

What 8 bits hold comes as a PIL image, everything else as an array. Nothing is scaled here. Every
way in which reading or writing fails ends in a UserError.
"""

import contextlib
import functools
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from data import tiff
from data.tiff import ORIENTATION
from util.errors import UserError, one_line
from util.files import atomic_write, explain_write_errors

Pixels = Image.Image | np.ndarray  # modes L, LA, RGB, RGBA; or (H, W, C)

# Told by content, not by name. PIL knows more, among them PostScript, which is a program to run.
FORMATS = ["JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF"]
ARRAYS = (".npy", ".npz")
SUFFIXES: tuple[str, ...] = (
    ".jpg",
    ".jpeg",
    ".png",
    ".ppm",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    *ARRAYS,
)
if "avif" in features.modules and features.check("avif"):  # older Pillows warn of the name
    FORMATS.append("AVIF")
    SUFFIXES += (".avif",)
with contextlib.suppress(ImportError):  # optional
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS.append("HEIF")
    SUFFIXES += (".heic", ".heif")
PAGE = re.compile(r"(.+)[/\\]page_(\d+)", re.DOTALL)
NUMBERS = [np.dtype(code) for code in "u1 u2 u4 u8 i1 i2 i4 i8 f2 f4 f8".split()]
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Looking for more than runs of equal bytes makes photographs no smaller and takes 3x the time.
    "PNG": {"compress_type": zlib.Z_RLE},
    "JPEG": {"quality": 95, "subsampling": 0},  # the usual ones smear the edges of label maps
    "WEBP": {"lossless": True, "exact": True},  # also of colours that nobody sees
}
_one_at_a_time = threading.Lock()  # warning filters are the whole process's


class Header(NamedTuple):
    """What a file says of its image before the pixels are decoded."""

    size: tuple[int, int]  # width, height
    channels: int
    dtype: np.dtype
    alpha: bool = False  # the last channel is transparency


def read_image(path: str) -> Pixels:
    """An image as it is in its file, upright; UserError if it cannot be read.

    Returns:
        A PIL image of mode L, LA, RGB or RGBA where 8 bits hold it, else an array (H, W, C).
    """
    with _opened(path) as (source, _):
        return source()


def read_header(path: str) -> Header:
    """Size, channels and type of an image, at little cost; UserError if it cannot be read."""
    with _opened(path) as (_, header):
        return header


def pages(path: str) -> list[str]:
    """The images in a file: its own path for one, else {path}/page_0001 and so on.

    TIFF and NPZ have several. Thumbnails, overviews and masks in a TIFF are none. A file that
    cannot be read counts as one image: who reads it will say what is wrong.
    """
    try:
        count = _page_count(path)
    except Exception:  # a damaged directory can raise nearly anything
        count = 1
    return [path] if count <= 1 else [f"{path}/page_{n:04d}" for n in range(1, count + 1)]


def split_page(path: str) -> tuple[str, int]:
    """The file that has an image, and the number of its page from 0 on."""
    found = PAGE.fullmatch(path)
    return (found[1], int(found[2]) - 1) if found and os.path.isfile(found[1]) else (path, 0)


def load_image(path: str, mode: str = "RGB") -> Image.Image:
    """Read an image in 8 bits a channel, for datasets of your own: "RGB" or "L", no transparency.

    16 bits are scaled to 8; of images that 8 bits cannot hold at all a UserError.
    """
    image = read_image(path)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint16 or image.shape[2] not in (1, 3):
            raise UserError(
                f"{one_line(path)} holds {described(image.dtype, image.shape[2])}, which no 8-bit "
                "image can show; read it with ImageReader, as in data/template_dataset.py"
            )
        levels = (image // 257 + (image % 257 > 128)).astype(np.uint8)  # rounded
        image = Image.fromarray(levels[..., 0] if image.shape[2] == 1 else levels)
    return image if image.mode == mode else image.convert(mode)  # copies cost time


def described(dtype: np.dtype, channels: int) -> str:
    """For messages: int16 values in 3 channels."""
    return f"{dtype.name} values in {channels} channel{'' if channels == 1 else 's'}"


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Callable[[], Pixels], Header]]:
    """What decodes a file, and its header; what fails in the block is a UserError with the path."""
    file, page = split_page(path)
    try:
        if os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file)):
            raise OSError("it is a pipe or a device")  # reading it could wait forever
        if file.lower().endswith(ARRAYS):
            array = _array(file, page)
            height, width, channels = array.shape
            header = Header((width, height), channels, array.dtype)
            _check_pixels(header)
            yield functools.partial(np.ascontiguousarray, array), header
            return
        with open(file, "rb") as stream:
            start = stream.read(32)
        tags = tiff.directories(file)[page] if tiff.is_tiff(start) else None
        if tags and tags.needs_tifffile():
            header = Header(tags.size, tags.channels, tags.dtype, tags.alpha)
            _check_pixels(header)
            yield functools.partial(tags.read, file), header
        elif start[:4] == b"\x89PNG" and start[24:25] == b"\x10" and start[25] in SIXTEEN_BIT:
            width, height = struct.unpack(">II", start[16:24])
            channels = SIXTEEN_BIT[start[25]]
            header = Header((width, height), channels, np.dtype("u2"), alpha=channels % 2 == 0)
            _check_pixels(header)
            yield functools.partial(_sixteen_bit_png, file, channels), header
        else:
            with _pillow(file, tags.number if tags else 0) as image:
                dtype = tags.dtype if tags else np.dtype("f4" if image.mode == "F" else "u2")
                yield functools.partial(_decoded, image, dtype), _pillow_header(image, dtype)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        problem = f"cannot read the image {one_line(path)}: {_reason(error)}"
        raise UserError(f"{problem}; replace it or move it elsewhere") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "this is no image file of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"{str(error).partition(',')[0]}, so make it smaller or cut it up"
    return getattr(error, "strerror", None) or one_line(error) or type(error).__name__


# --- what Pillow reads


@contextlib.contextmanager
def _pillow(file: str, page: int) -> Iterator[Image.Image]:
    # given a name, PIL 13 maps some files into memory, and scrambles a turned TIFF
    with open(file, "rb") as stream:
        # from half of its limit (178 million pixels) on PIL warns: these are legal here
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(stream, formats=FORMATS)
        if image.format == "TIFF":
            image.seek(page)
        elif image.format == "PPM" and image.mode == "RGB" and _maximum(file) > 255:
            raise OSError("PIL has no 16-bit colours in PPM, so convert it to PNG or TIFF")
        yield image


def _maximum(file: str) -> int:
    """The value of white in a PPM file, the third number of its header."""
    with open(file, "rb") as stream:
        words = re.sub(rb"#[^\n]*", b" ", stream.read(1024)).split()
    return int(words[3])


def _pillow_header(image: Image.Image, dtype: np.dtype) -> Header:
    mode = _eight_bit_mode(image)
    if mode is None:
        return Header(image.size, 1, dtype)
    return Header(image.size, Image.getmodebands(mode), np.dtype("u1"), "A" in mode)


def _eight_bit_mode(image: Image.Image) -> str | None:
    """Which of L, LA, RGB, RGBA holds the image; None if none does."""
    if image.mode.startswith(("I", "F")):
        return None
    if image.mode in ("1", "L"):
        return "LA" if "transparency" in image.info else "L"
    if image.mode in ("LA", "La"):
        return "LA"
    seen_through = image.mode in ("PA", "RGBA", "RGBa") or "transparency" in image.info
    return "RGBA" if seen_through else "RGB"


def _decoded(image: Image.Image, dtype: np.dtype) -> Pixels:
    """The pixels of an image that Pillow has opened; `dtype` is that of modes I, I;16 and F."""
    image.load()
    with contextlib.suppress(Exception):  # damaged EXIF data: the pixels are still good
        if image.getexif().get(ORIENTATION, 1) != 1:  # else it would only be copied
            image = ImageOps.exif_transpose(image)
    mode = _eight_bit_mode(image)
    if mode is None:
        return np.asarray(image).astype(dtype)[..., None]
    return image if image.mode == mode else image.convert(mode)


# --- PNG of 16 bits in several channels, which Pillow makes 8 of

SIXTEEN_BIT = {2: 3, 4: 2, 6: 4}  # colour type: channels (PNG specification, table 11.1)


def _sixteen_bit_png(file: str, channels: int) -> np.ndarray:
    """Decoded by Pillow twice: its unpackers for the two orders of bytes take one byte each."""
    if channels == 2:  # grey and alpha are four bytes, as 8-bit RGBA
        pairs = _png_bytes(file, "RGBA")
        return pairs[..., 0::2] * np.uint16(256) + pairs[..., 1::2]
    mode = "RGB" if channels == 3 else "RGBA"
    return _png_bytes(file, f"{mode};16B") * np.uint16(256) + _png_bytes(file, f"{mode};16L")


def _png_bytes(file: str, unpacker: str) -> np.ndarray:
    with _pillow(file, 0) as image:
        image.tile = [(tile[0], tile[1], tile[2], unpacker) for tile in image.tile]  # type: ignore[attr-defined]
        image.load()
        return np.asarray(image)


def _write_png(file: BinaryIO, array: np.ndarray) -> None:
    """16 bits a channel, which Pillow writes for grey only (PNG specification, chapter 11)."""
    height, width, channels = array.shape
    colour = {count: kind for kind, count in SIXTEEN_BIT.items()}[channels]
    rows = np.zeros((height, 1 + 2 * channels * width), np.uint8)  # first byte 0: no filter
    rows[:, 1:] = array.astype(">u2").view(np.uint8).reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    file.write(b"\x89PNG\r\n\x1a\n")
    for name, data in (
        (b"IHDR", head),
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    ):
        file.write(struct.pack(">I", len(data)) + name + data)
        file.write(struct.pack(">I", zlib.crc32(name + data)))


# --- NPY and NPZ


def _array(file: str, page: int) -> np.ndarray:
    """The array of an NPY file, or number `page` of an NPZ file, as (H, W, C)."""
    loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        with loaded:
            loaded = loaded[loaded.files[page]]
    array = loaded
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or not array.size:
        raise OSError(
            f"its shape is {array.shape}, not (height, width) or (height, width, channels)"
        )
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.newbyteorder("=") not in NUMBERS:
        raise OSError(f"its values are {array.dtype}, which is no image; convert it to float32")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _page_count(file: str) -> int:
    suffix = os.path.splitext(file)[1].lower()
    if suffix in (".tif", ".tiff"):
        with open(file, "rb") as stream:
            start = stream.read(4)
        return len(tiff.directories(file)) if tiff.is_tiff(start) else 1
    if suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return len(arrays.files)
    return 1


def _check_pixels(header: Header) -> None:
    """The limit that Pillow has, for what it does not read."""
    width, height = header.size
    most = 2 * (Image.MAX_IMAGE_PIXELS or width * height)
    if width * height > most:
        raise Image.DecompressionBombError(
            f"Image size ({width * height} pixels) exceeds limit of {most} pixels, …"
        )


# --- writing


def write_image(path: str | os.PathLike[str], array: np.ndarray, remedy: str = "") -> None:
    """Write an image, whole or not at all; the suffix of `path` decides the format.

    Args:
        path: .png, .jpg, .webp, .bmp, .ppm, .tif or .npy.
        array: (H, W, C), of a type that `can_hold` says the format can hold.
        remedy: what to do where the place cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    plain = array[..., 0] if array.shape[2] == 1 else array
    with explain_write_errors(path, remedy), atomic_write(path) as file:
        if suffix == ".npy":
            np.save(file, plain)
        elif suffix in (".tif", ".tiff") and not tiff.pillow_writes(array.dtype, array.shape[2]):
            tiff.write(file, plain)
        elif suffix == ".png" and array.dtype == np.uint16 and array.shape[2] > 1:
            _write_png(file, array)
        else:
            kind = Image.registered_extensions().get(suffix, "PNG")
            Image.fromarray(plain).save(file, format=kind, **SAVE_OPTIONS.get(kind, {}))


def can_hold(suffix: str, dtype: np.dtype, channels: int) -> bool:
    """Whether a format loses nothing of such an image (but for the losses of JPEG and WebP)."""
    if suffix == ".npy":
        return True
    if suffix in (".tif", ".tiff"):
        return dtype.itemsize < 8 or dtype.kind == "f"
    if suffix == ".png":
        return channels <= 4 and dtype in (np.uint8, np.uint16)
    if suffix == ".webp":
        return channels in (3, 4) and dtype == np.uint8
    return channels in (1, 3) and dtype == np.uint8  # JPEG and the like


def writing_problem(suffix: str, dtype: np.dtype, channels: int) -> str | None:
    """Why files of this kind cannot be written here, as a sentence; None if they can."""
    if suffix in (".tif", ".tiff") and not tiff.pillow_writes(dtype, channels):
        try:
            import tifffile  # noqa: F401
        except ImportError:
            return (
                f"TIFF files of {described(dtype, channels)} need tifffile: pip install tifffile; "
                "or use --format npy"
            )
    return None
