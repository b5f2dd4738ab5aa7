"""From an image file to an image that `get_transform` takes: channels, range of values, size."""

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from data.image_io import Pixels, described, read_header, read_image
from data.transforms import BICUBIC, AnyImage, prepare, to_grey
from util.errors import UserError, one_line

FULL_RANGE = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}  # others have none that is meant
Range = tuple[float, float]


class Side(NamedTuple):
    """One of the images that a sample is made of, as the options want it."""

    name: str  # "A" or "B", or another that no option knows
    channels: int
    value_range: Range | None  # what becomes [-1, 1]; None: all that 8 or 16 bits can hold
    channels_flag: str  # the option that says how many channels; "" if none does
    range_flag: str


class ImageReader:
    """Reads image files for a dataset, or takes their images from the cache once there is one.

    Images come out with the channels that are asked for, and resized for --preprocess: PIL images
    where 8 bits hold them, else float tensors in [-1, 1]. `get_transform` crops and flips both.

    Args:
        opt: reads preprocess, load_size, crop_size, value_range, value_range_A and _B, direction.
        method: how to resize, as for `get_transform`.
        channels: how many channels A or B has, as in `ImageReader(opt, A=3)`; both for files that
            hold two images, side by side.
    """

    def __init__(
        self, opt: Namespace, *, method: InterpolationMode | int = BICUBIC, **channels: int
    ) -> None:
        self.opt, self.method = opt, method
        self.sides = [_side(opt, name, count) for name, count in channels.items()]
        way = opt.preprocess, opt.load_size, opt.crop_size, self.sides, str(method)
        self.way = repr(way)  # what the pixels depend on beside the files
        self.cached: Callable[[int], AnyImage] | None = None  # image number N of the cache
        self.places: dict[str, int] = {}  # path: the number of its first image there

    def __call__(self, path: str) -> tuple[AnyImage, ...]:
        """The images in a file, from left to right; UserError if it cannot be read."""
        if self.cached is None or path not in self.places:
            return self.read(path)
        first = self.places[path]
        return tuple(map(self.cached, range(first, first + len(self.sides))))

    def decode(self, path: str) -> tuple[Pixels, ...]:
        """The images in a file as they are there."""
        image = read_image(path)
        if len(self.sides) == 1:
            return (image,)
        width, height = size_of(image)
        half = width // 2  # of an odd width the last column is dropped
        if not half:
            raise UserError(f"{path} is 1x{height}, too narrow for images side by side; remove it")
        if isinstance(image, np.ndarray):
            return image[:, :half], image[:, half : 2 * half]
        return image.crop((0, 0, half, height)), image.crop((half, 0, 2 * half, height))

    def read(self, path: str) -> tuple[AnyImage, ...]:
        """The images in a file, prepared."""
        images = zip(self.decode(path), self.sides, strict=True)
        return tuple(self.prepared(image, side, path) for image, side in images)

    def prepared(self, image: Pixels, side: Side, path: str) -> AnyImage:
        """One image with the channels and the range of its side, resized for --preprocess."""
        image = without_alpha(image, side.channels, path)
        if isinstance(image, Image.Image) and side.value_range is None and side.channels in (1, 3):
            ready: AnyImage = image
        else:
            array = np.asarray(image)
            ready = to_unit(array[..., None] if array.ndim == 2 else array, side, path)
        ready = with_channels(ready, side, path)
        return prepare(ready, self.opt, False, self.method)


def _side(opt: Namespace, name: str, channels: int) -> Side:
    """What the options say of A or B."""
    values = getattr(opt, f"value_range_{name}", None) or getattr(opt, "value_range", None)
    value_range = values and (values[0], values[1])
    if name not in ("A", "B"):
        return Side(name, channels, value_range, "", "--value_range")
    flag = "--input_nc" if (name == "A") == (opt.direction == "AtoB") else "--output_nc"
    return Side(name, channels, value_range, flag, f"--value_range_{name}")


def size_of(image: Pixels) -> tuple[int, int]:
    """(width, height)."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


def without_alpha(image: Pixels, channels: int, path: str) -> Pixels:
    """The image without transparency, unless that is one of the `channels` asked for."""
    if isinstance(image, np.ndarray):
        surplus = image.shape[2] in (2, 4) and image.shape[2] != channels
        return image[..., :-1] if surplus and read_header(path).alpha else image
    if image.mode in ("LA", "RGBA") and len(image.mode) != channels:
        return image.convert(image.mode[:-1])
    return image


def with_channels(image: AnyImage, side: Side, path: str) -> AnyImage:
    """An image with the channels of its side: grey becomes RGB, and RGB grey.

    UserError if that is not what keeps the two apart.
    """
    count = len(image) if isinstance(image, torch.Tensor) else len(image.getbands())
    if count == side.channels:
        return image
    if {count, side.channels} != {1, 3}:
        raise UserError(channels_problem(path, count, side))
    if side.channels == 1:
        return to_grey(image)
    return image.repeat(3, 1, 1) if isinstance(image, torch.Tensor) else image.convert("RGB")


def channels_problem(path: str, count: int, side: Side) -> str:
    """Say that a file has other channels than the networks."""
    channels = "1 channel" if count == 1 else f"{count} channels"
    if not side.channels_flag:
        return f"{one_line(path)} has {channels}, and {side.channels} are needed; convert it"
    return (
        f"{one_line(path)} has {channels}, and {side.channels_flag} {side.channels} asks for "
        f"{side.channels}; give {side.channels_flag} {count}, or convert the files of {side.name}"
    )


def to_unit(array: np.ndarray, side: Side, path: str) -> torch.Tensor:
    """(H, W, C) of any type to a float32 tensor (C, H, W) in [-1, 1], by the range of its side.

    What is outside of the range becomes -1 or 1. UserError without a range, or for NaN.
    """
    values = side.value_range or FULL_RANGE.get(array.dtype.name)
    if values is None:
        low, high = float(np.nanmin(array)), float(np.nanmax(array))
        raise UserError(
            f"{one_line(path)} holds {described(array.dtype, array.shape[2])}, from {low:.9g} to "
            f"{high:.9g}: say which range becomes black to white, the same for all files: "
            f"{side.range_flag} {low:.9g} {high:.9g}"
        )
    low, high = values
    exact = np.float64 if array.dtype.itemsize >= 4 else np.float32  # which has 24 bits
    unit = torch.from_numpy(np.moveaxis(array, -1, 0).astype(exact, order="C"))
    unit.sub_(low).mul_(2 / (high - low)).sub_(1)
    if array.dtype.kind == "f" and not unit.isfinite().all():
        raise UserError(
            f"{one_line(path)} has values that are no numbers (NaN or infinite); replace them"
        )
    return unit.clamp_(-1, 1).float()
