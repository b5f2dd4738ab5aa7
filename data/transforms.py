"""From an image to a tensor: what `--preprocess` does, and the random crop and flip.

An image is a PIL image of 8 bits, grey or RGB, or a float tensor (C, H, W) that is in [-1, 1]
already, whatever its file holds.
"""

import random
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from util.errors import UserError

BICUBIC = InterpolationMode.BICUBIC
MOST_PIXELS = 1 << 28  # of a resized image
GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as in PIL's convert("L")
AnyImage = Image.Image | torch.Tensor


def scaled_to_width(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """`load_size` wide in the old proportions, but no lower than `crop_size`."""
    return load_size, max(int(load_size * height / width), crop_size)


def multiple_of_4(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """The nearest size that two halvings in the generator leave whole."""
    return max(4, round(width / 4) * 4), max(4, round(height / 4) * 4)


# (width, height, load_size, crop_size) -> the new size; those with "crop" in their name crop then
PREPROCESS: dict[str, Callable[[int, int, int, int], tuple[int, int]]] = {
    "resize_and_crop": lambda w, h, load_size, _: (load_size, load_size),
    "crop": lambda w, h, *_: (w, h),
    "scale_width": scaled_to_width,
    "scale_width_and_crop": scaled_to_width,
    "none": multiple_of_4,
}


def resized_size(opt: Namespace, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) after the resizing of `--preprocess` and before its crop.

    In testing, where the networks give back any size, none leaves an image as it is.
    """
    if opt.preprocess == "none" and not getattr(opt, "isTrain", True):
        return size
    return PREPROCESS[opt.preprocess](*size, opt.load_size, opt.crop_size)


def get_params(opt: Namespace, size: tuple[int, int]) -> dict[str, Any]:
    """Draw one crop and one flip for images of one (width, height) that must stay aligned.

    Returns:
        {"crop_pos": (x, y), "flip": bool}, for `get_transform`.
    """
    position = _random_position(resized_size(opt, size), opt.crop_size)
    return {"crop_pos": position, "flip": random.random() > 0.5}


def _random_position(size: tuple[int, int], crop_size: int) -> tuple[int, int]:
    """(x, y) of a random crop inside (width, height); 0 where that is not larger than the crop."""
    x, y = (random.randint(0, max(0, side - crop_size)) for side in size)
    return x, y


def get_transform(
    opt: Namespace,
    params: dict[str, Any] | None = None,
    grayscale: bool = False,
    method: InterpolationMode | int = BICUBIC,
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
        A callable from an image to a (C, H, W) float32 tensor in [-1, 1]; it can be pickled.
    """
    params = params or {"crop_pos": None, "flip": None}
    steps: list[Callable] = [partial(prepare, opt=opt, grayscale=grayscale, method=method)]
    if "crop" in opt.preprocess:
        steps.append(partial(_crop, crop_size=opt.crop_size, position=params["crop_pos"]))
    if not opt.no_flip:
        steps.append(partial(_flip, mirrored=params["flip"]))
    if convert:
        steps.append(_to_tensor)
    return transforms.Compose(steps)


def prepare(
    image: AnyImage, opt: Namespace, grayscale: bool, method: InterpolationMode | int
) -> AnyImage:
    """What is not random: grey, and the size for `--preprocess`; done twice it changes no more."""
    if grayscale:
        image = to_grey(image)
    before = image_size(image)
    width, height = resized_size(opt, before)
    if width * height > MOST_PIXELS:  # of an image one pixel wide, say
        raise UserError(
            f"--preprocess {opt.preprocess} would make {width}x{height} pixels of an image of "
            f"{before[0]}x{before[1]}; take it out of the dataset, or choose another way"
        )
    resized = F.resize(image, [height, width], interpolation=method)
    if resized is not image and isinstance(resized, torch.Tensor):
        resized.clamp_(-1, 1)  # bicubic overshoots at edges; PIL clips
    return resized


def image_size(image: AnyImage) -> tuple[int, int]:
    """(width, height)."""
    return (image.shape[2], image.shape[1]) if isinstance(image, torch.Tensor) else image.size


def to_grey(image: AnyImage) -> AnyImage:
    """One channel of three; of one channel, the image."""
    if not isinstance(image, torch.Tensor):
        return F.rgb_to_grayscale(image)
    weights = image.new_tensor(GREY)[:, None, None]
    return image if len(image) == 1 else (image * weights).sum(0, keepdim=True)


def _crop(image: AnyImage, crop_size: int, position: tuple[int, int] | None) -> AnyImage:
    """Cut out a square at (x, y), or at random; as in the original, a smaller image stays.

    One that is larger in one direction only is filled up with black.
    """
    size = image_size(image)
    if max(size) <= crop_size:
        return image
    x, y = position or _random_position(size, crop_size)
    if isinstance(image, torch.Tensor):
        part = image[:, y : y + crop_size, x : x + crop_size]
        missing = (0, crop_size - part.shape[2], 0, crop_size - part.shape[1])
        return torch.nn.functional.pad(part, missing, value=-1.0)
    return F.crop(image, y, x, crop_size, crop_size)


def _flip(image: AnyImage, mirrored: bool | None) -> AnyImage:
    """Swap left and right; None: with probability 1/2."""
    if mirrored is None:
        mirrored = random.random() > 0.5
    return F.hflip(image) if mirrored else image


def to_unit_interval(image: AnyImage) -> torch.Tensor:
    """An image as (C, H, W) in [0, 1]."""
    return (image + 1) / 2 if isinstance(image, torch.Tensor) else F.to_tensor(image)


def _to_tensor(image: AnyImage) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image.contiguous()
    return F.to_tensor(image).sub_(0.5).div_(0.5)
