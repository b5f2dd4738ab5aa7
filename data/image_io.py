"""Reading image files; every way in which that fails ends in a UserError."""

import contextlib
import os
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import InterpolationMode

from data.transforms import BICUBIC, prepare
from util.errors import UserError, one_line

ORIENTATION = 0x0112  # the EXIF tag
# Told by content, not by name. PIL knows more, among them PostScript, which is a program to run.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "DIB", "TIFF", "WEBP", "GIF")
_one_at_a_time = threading.Lock()  # warning filters are the whole process's


class ImageReader:
    """Reads image files for a dataset, or takes their images from the cache once there is one.

    Images come out grey or RGB, and resized for --preprocess; `get_transform` crops and flips them.

    Args:
        opt: reads preprocess, load_size and crop_size.
        grayscale: as for `get_transform`; two for files that hold two images, side by side.
        method: how to resize, as for `get_transform`.
    """

    def __init__(
        self, opt: Namespace, *grayscale: bool, method: InterpolationMode | int = BICUBIC
    ) -> None:
        self.opt, self.grayscale, self.method = opt, grayscale or (False,), method
        way = opt.preprocess, opt.load_size, opt.crop_size, self.grayscale, str(method)
        self.way = repr(way)  # what the pixels depend on beside the files
        self.cached: Callable[[int], Image.Image] | None = None  # image number N of the cache
        self.places: dict[str, int] = {}  # path: the number of its first image there

    def __call__(self, path: str) -> tuple[Image.Image, ...]:
        """The images in a file, from left to right; UserError if it cannot be read."""
        if self.cached is None or path not in self.places:
            return self.read(path)
        first = self.places[path]
        return tuple(map(self.cached, range(first, first + len(self.grayscale))))

    def decode(self, path: str) -> tuple[Image.Image, ...]:
        """The images in a file as they are there, in RGB."""
        image = load_image(path)
        if len(self.grayscale) == 1:
            return (image,)
        half, height = image.width // 2, image.height  # of an odd width the last column is dropped
        if not half:
            raise UserError(f"{path} is 1x{height}, too narrow for images side by side; remove it")
        return image.crop((0, 0, half, height)), image.crop((half, 0, 2 * half, height))

    def read(self, path: str) -> tuple[Image.Image, ...]:
        """The images in a file, prepared."""
        return tuple(
            prepare(image, self.opt, grayscale, self.method)
            for image, grayscale in zip(self.decode(path), self.grayscale, strict=True)
        )


def load_image(path: str, mode: str = "RGB") -> Image.Image:
    """Read an image file, upright (EXIF), in 8 bits a channel: "RGB" or "L", no transparency."""
    with open_image(path) as image:
        image.load()
        with contextlib.suppress(Exception):  # damaged EXIF data: the pixels are still good
            if image.getexif().get(ORIENTATION, 1) != 1:  # else it would only be copied
                image = ImageOps.exif_transpose(image)
        image = eight_bits(image)
        return image if image.mode == mode else image.convert(mode)  # copies cost time


@contextlib.contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """An image file as PIL opens it; what fails in the block is a UserError with the path."""
    try:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise OSError("it is a pipe or a device")  # reading it could wait forever
        # from half of its limit (178 million pixels) on PIL warns: these are legal here
        with _one_at_a_time, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            yield image
    except UserError:
        raise
    except Exception as error:  # PIL's decoders raise nearly anything on damaged files
        problem = f"cannot read the image {one_line(path)}: {_reason(error)}"
        raise UserError(f"{problem}; replace it or move it elsewhere") from error


def _reason(error: Exception) -> str:
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
    values = np.asarray(image).clip(0, 65535).astype(np.uint16)
    if image.mode != "I" or values.max() > 255:
        values = values // 257 + (values % 257 > 128)  # rounded
    return Image.fromarray(values.astype(np.uint8))
