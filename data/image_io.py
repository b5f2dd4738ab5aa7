"""What a dataset reads its picture files with, so that `--cache ram` can keep what is in them."""

import contextlib
import os
from argparse import Namespace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from data.base_dataset import Picture, prepare, preprocess_of, resized_size, square
from data.image_folder import FORMATS, ORIENTATION, load_image
from util.errors import UserError

SIZE = (0x0100, 0x0101)  # the tags of a TIFF's width and height


class Store(Protocol):
    """Where the pictures of a file may already be: data/cache.py."""

    def get(self, first: int, count: int) -> tuple[torch.Tensor, ...] | None:
        """Pictures number `first` and following, (C, H, W) uint8; None if they are not there."""


class Pictures:
    """Reads picture files for a dataset, or finds them in the cache once there is one.

    What it returns goes through `get_transform`, which takes both kinds, with the same result.
    """

    def __init__(
        self,
        opt: Namespace,
        *grayscale: bool,
        method: InterpolationMode | int = InterpolationMode.BICUBIC,
    ) -> None:
        """Keep how the pictures are prepared.

        Args:
            opt: reads preprocess, load_size and crop_size.
            grayscale: as for `get_transform`; two of them for files that hold two pictures, side
                by side.
            method: how to resize, as for `get_transform`.
        """
        self.opt, self.grayscale, self.method = opt, grayscale or (False,), method
        self.store: Store | None = None
        self.places: dict[str, int] = {}

    def __call__(self, path: str) -> tuple[Picture, ...]:
        """The pictures in a file: from the file as they are, or prepared (uint8) from the cache.

        Raises:
            UserError: the file cannot be read as an image, or is too narrow to be divided.
        """
        if self.store is not None and path in self.places:
            found = self.store.get(self.places[path], len(self.grayscale))
            if found is not None:
                return found
        return self.decode(path)

    def decode(self, path: str) -> tuple[Image.Image, ...]:
        """The pictures in a file, from left to right."""
        image = load_image(path)
        return (image,) if len(self.grayscale) == 1 else halves(image, path)

    def prepared(self, path: str) -> list[torch.Tensor]:
        """What the cache keeps of a file: for each picture in it (C, H, W) uint8."""
        return [
            as_uint8(prepare(image, self.opt, grayscale, self.method))
            for image, grayscale in zip(self.decode(path), self.grayscale, strict=True)
        ]

    def shapes(self, path: str) -> list[tuple[int, int, int]]:
        """The (C, H, W) that `prepared` will have, from the head of the file alone."""
        size = (1, 1)  # any: all pictures become square
        if preprocess_of(self.opt).resize is not square:
            whole = size_in_header(path)
            size = whole[0] // len(self.grayscale), whole[1]
            if not size[0]:
                self.decode(path)  # too narrow: it says so
        width, height = resized_size(self.opt, size)
        return [(1 if grayscale else 3, height, width) for grayscale in self.grayscale]


def halves(image: Image.Image, path: str) -> tuple[Image.Image, Image.Image]:
    """The left and the right half of a picture; of an odd width the last column is dropped."""
    half = image.width // 2
    if not half:
        raise UserError(
            f"{path} is {image.width}x{image.height}, too narrow for two pictures side by side; "
            "replace it or move it elsewhere"
        )
    return (
        image.crop((0, 0, half, image.height)),
        image.crop((half, 0, 2 * half, image.height)),
    )


def as_uint8(image: Image.Image) -> torch.Tensor:
    """A grey or RGB picture as (C, H, W) uint8."""
    values = np.array(image)
    return torch.from_numpy(values[None] if values.ndim == 2 else values.transpose(2, 0, 1))


def size_in_header(path: str) -> tuple[int, int]:
    """(width, height) of the picture that `load_image` would return, mostly without reading it.

    It is only a plan: a picture that turns out larger stays out of the cache.
    """
    if not os.path.isfile(path):
        return load_image(path).size  # it knows what to say
    with contextlib.suppress(Exception):
        with Image.open(path, formats=FORMATS) as image:
            # PIL reads the whole of a PNG in search of EXIF data behind the pixels
            told = image.format != "PNG" or "exif" in image.info
            # from 5 on, width and height are swapped
            turned = told and image.getexif().get(ORIENTATION, 1) >= 5
            # newer versions of PIL have turned a TIFF's size here, older ones not
            tags = image.tag_v2 if image.format == "TIFF" else {}
            width, height = (tags.get(tag, n) for tag, n in zip(SIZE, image.size, strict=True))
            return (height, width) if turned else (width, height)
    return load_image(path).size  # it knows what to say
