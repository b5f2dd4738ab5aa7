"""From an image to a tensor: what `--preprocess` does, and the random crop and flip."""

import random
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from util.errors import UserError

MOST_PIXELS = 1 << 28  # of a resized image


class Preprocess(NamedTuple):
    """A row of PREPROCESS: (width, height, load_size, crop_size) -> the new size; if it crops."""

    resize: Callable[[int, int, int, int], tuple[int, int]]
    crops: bool


def scaled_to_width(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """`load_size` wide in the old proportions, but no lower than `crop_size`."""
    return load_size, max(int(load_size * height / width), crop_size)


def multiple_of_4(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """The nearest size that two halvings in the generator leave whole."""
    return max(4, round(width / 4) * 4), max(4, round(height / 4) * 4)


PREPROCESS = {
    "resize_and_crop": Preprocess(lambda w, h, load_size, _: (load_size, load_size), crops=True),
    "crop": Preprocess(lambda w, h, *_: (w, h), crops=True),
    "scale_width": Preprocess(scaled_to_width, crops=False),
    "scale_width_and_crop": Preprocess(scaled_to_width, crops=True),
    "none": Preprocess(multiple_of_4, crops=False),
}


def resized_size(opt: Namespace, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) after the resizing of `--preprocess` and before its crop."""
    return PREPROCESS[opt.preprocess].resize(*size, opt.load_size, opt.crop_size)


def get_params(opt: Namespace, size: tuple[int, int]) -> dict[str, Any]:
    """Draw one crop and one flip, to be used for several images that must stay aligned.

    Args:
        opt: reads preprocess, load_size and crop_size.
        size: (width, height) of the image before preprocessing.

    Returns:
        {"crop_pos": (x, y), "flip": bool}, for `get_transform`. In a direction in which the image
        is not larger than the crop, the position is 0.
    """
    position = _random_position(resized_size(opt, size), opt.crop_size)
    return {"crop_pos": position, "flip": random.random() > 0.5}


def _random_position(size: tuple[int, int], crop_size: int) -> tuple[int, int]:
    """(x, y) of a random crop that lies inside an image of (width, height) `size`."""
    x, y = (random.randint(0, max(0, side - crop_size)) for side in size)
    return x, y


def get_transform(
    opt: Namespace,
    params: dict[str, Any] | None = None,
    grayscale: bool = False,
    method: InterpolationMode | int = InterpolationMode.BICUBIC,
    convert: bool = True,
) -> transforms.Compose:
    """Build the preprocessing of one image.

    Args:
        opt: reads preprocess, load_size, crop_size and no_flip.
        params: crop and flip from `get_params`; None draws them anew for each image.
        grayscale: make one channel of the image.
        method: how to resize, a torchvision or PIL constant.
        convert: False leaves it a PIL image.

    Returns:
        A callable from a PIL image to a (C, H, W) float32 tensor in [-1, 1]; it can be pickled.
    """
    params = params or {"crop_pos": None, "flip": None}
    steps: list[Callable] = [partial(prepare, opt=opt, grayscale=grayscale, method=method)]
    if PREPROCESS[opt.preprocess].crops:
        steps.append(partial(_crop, crop_size=opt.crop_size, position=params["crop_pos"]))
    if not opt.no_flip:
        steps.append(partial(_flip, mirrored=params["flip"]))
    if convert:
        steps.append(_to_tensor)
    return transforms.Compose(steps)


def prepare(
    image: Image.Image, opt: Namespace, grayscale: bool, method: InterpolationMode | int
) -> Image.Image:
    """What of preprocessing is the same each time: grey, and the size for `--preprocess`.

    An image that was prepared before comes out as it is.
    """
    if grayscale:
        image = F.rgb_to_grayscale(image)
    width, height = resized_size(opt, image.size)
    if width * height > MOST_PIXELS:  # of an image one pixel wide, say
        raise UserError(
            f"--preprocess {opt.preprocess} would make {width}x{height} pixels of an image of "
            f"{image.width}x{image.height}; take it out of the dataset, or choose another way"
        )
    return F.resize(image, [height, width], interpolation=method)


def _crop(image: Image.Image, crop_size: int, position: tuple[int, int] | None) -> Image.Image:
    """Cut out `crop_size` x `crop_size` at (x, y), at random if None, as the original does.

    An image that is larger in no direction stays as it is, in one only is filled up with black.
    """
    if max(image.size) <= crop_size:
        return image
    x, y = position or _random_position(image.size, crop_size)
    return F.crop(image, y, x, crop_size, crop_size)


def _flip(image: Image.Image, mirrored: bool | None) -> Image.Image:
    """Swap left and right; None: with probability 1/2."""
    if mirrored is None:
        mirrored = random.random() > 0.5
    return F.hflip(image) if mirrored else image


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return F.to_tensor(image).sub_(0.5).div_(0.5)
