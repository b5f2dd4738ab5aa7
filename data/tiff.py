"""TIFF: its tags, and the kinds that Pillow does not read exactly, by tifffile.

Pillow opens many TIFFs of which it then makes 8 bits, or drops bands: so the tags decide who reads.
"""

import os
import warnings
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from util.errors import UserError, one_line

ORIENTATION = 0x0112  # the EXIF tag is one of TIFF
SIZE, BITS, COMPRESSION, PHOTOMETRIC = (256, 257), 258, 259, 262  # tags of TIFF 6.0
SAMPLES, PLANAR, EXTRA, FORMAT, SUBFILE = 277, 284, 338, 339, 254
KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}


def is_tiff(start: bytes) -> bool:
    """Whether these are the first bytes of a TIFF or BigTIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def directories(path: str) -> "list[Tiff]":
    """The images in a TIFF, without its thumbnails, overviews and masks."""
    stat = os.stat(path)
    return _directories(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(16)  # a stack is opened for each of its pages
def _directories(path: str, size: int, modified: int) -> "list[Tiff]":
    with open(path, "rb") as stream:
        return _read_directories(stream)


def _read_directories(stream: BinaryIO) -> "list[Tiff]":
    head = stream.read(8)
    head += stream.read(8) if head[2:4] in (b"+\0", b"\0+") else b""
    place = ImageFileDirectory_v2(head).next
    seen: set[int] = set()
    found: list[Tiff] = []
    while place and place not in seen:
        tags = ImageFileDirectory_v2(head)
        stream.seek(place)
        tags.load(stream)
        if not tags.get(SUBFILE, 0) & 5:  # bit 0: reduced in size; bit 2: a mask
            found.append(Tiff(tags, len(seen)))
        seen.add(place)
        place = tags.next
    return found


class Tiff:
    """What the tags of one image in a TIFF say of its pixels."""

    def __init__(self, tags: ImageFileDirectory_v2, number: int) -> None:
        self.tags, self.number = tags, number  # among all images of the file
        self.size = int(tags[SIZE[0]]), int(tags[SIZE[1]])
        bits = tags.get(BITS, (1,))
        self.bits = max(bits if isinstance(bits, tuple) else (bits,))
        self.channels = int(tags.get(SAMPLES, 1))
        self.planar = tags.get(PLANAR, 1) == 2
        kind = tags.get(FORMAT, (1,))
        self.format = kind[0] if isinstance(kind, tuple) else kind

    @property
    def dtype(self) -> np.dtype:
        """The type of number that holds one value."""
        size = next((size for size in (1, 2, 4, 8) if self.bits <= 8 * size), 8)
        try:
            return np.dtype(f"{KINDS[self.format]}{size}")
        except (KeyError, TypeError):
            raise OSError(f"it holds {self}, which is no image") from None

    @property
    def alpha(self) -> bool:
        """Whether the last channel is transparency: only if the file says so."""
        extra = self.tags.get(EXTRA, ())
        extra = extra if isinstance(extra, tuple) else (extra,)
        return self.channels in (2, 4) and len(extra) == 1 and extra[0] in (1, 2)

    def needs_tifffile(self) -> bool:
        """Whether Pillow cannot read it, or would not read it exactly."""
        plain, photometric = self.dtype.str[1:], self.tags.get(PHOTOMETRIC, 1)
        if self.channels == 1:
            return plain not in ("u1", "u2", "i2", "i4", "f4") or (plain == "u2" and self.bits < 12)
        if plain != "u1" or self.bits != 8:
            return True
        colours = {2: 3, 5: 4, 6: 3, 8: 3, 1: 1, 0: 1}.get(photometric, 0)
        return self.channels != colours + self.alpha or (self.planar and photometric != 2)

    def read(self, file: str) -> np.ndarray:
        """The pixels, (H, W, C), by tifffile."""
        try:
            import tifffile
        except ImportError:
            raise UserError(
                f"{one_line(file)} is a TIFF with {self}, which needs tifffile to be read: "
                "pip install tifffile imagecodecs"
            ) from None
        with tifffile.TiffFile(file) as tiff:
            try:
                array = tiff.pages[self.number].asarray()
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                raise UserError(
                    f"{one_line(file)} is a TIFF with {self}, which needs imagecodecs to be read: "
                    "pip install imagecodecs"
                ) from None
        width, height = self.size
        shape = (self.channels, height, width) if self.planar else (height, width, self.channels)
        if array.dtype != self.dtype or not array.size:
            raise OSError(f"it holds {array.dtype} values of {array.shape}, its tags say {self}")
        array = array.reshape(shape)
        array = np.moveaxis(array, 0, -1) if self.planar and self.channels > 1 else array
        return np.ascontiguousarray(_upright(array, self.tags.get(ORIENTATION, 1)))

    def __str__(self) -> str:
        kind = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
        packing = int(self.tags.get(COMPRESSION, 1))
        return (
            f"{self.bits}-bit {kind.get(self.format, 'unknown')} values in {self.channels} "
            f"channel{'' if self.channels == 1 else 's'}{', planar' * self.planar}, "
            f"{COMPRESSIONS.get(packing, f'compression {packing}')}"
        )


COMPRESSIONS = {
    1: "uncompressed", 2: "CCITT", 3: "fax", 4: "fax", 5: "LZW", 6: "old JPEG", 7: "JPEG",
    8: "deflate", 32773: "PackBits", 32946: "deflate", 34712: "JPEG 2000", 34887: "LERC",
    34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
}  # fmt: skip


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Undo what the orientation tag, 1 to 8, says; (H, W, C)."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array[::-1] if orientation in (3, 4, 7, 8) else array


def pillow_writes(dtype: np.dtype, channels: int) -> bool:
    """Whether Pillow writes such a TIFF exactly."""
    return (channels in (1, 3) and dtype == np.uint8) or (
        channels == 1 and dtype in (np.uint16, np.int32, np.float32)
    )


def write(file: BinaryIO, array: np.ndarray) -> None:
    """Write (H, W) or (H, W, C) of any type, by tifffile."""
    import tifffile

    colour = "rgb" if array.ndim == 3 and array.shape[2] == 3 else "minisblack"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tifffile.imwrite(file, array, photometric=colour, planarconfig="contig", metadata=None)
