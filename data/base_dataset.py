"""What every dataset shares: the base class, and the way from a picture to a tensor."""

import random
from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from util.errors import UserError

if TYPE_CHECKING:
    from data.image_io import Pictures

Picture = Image.Image | torch.Tensor  # a tensor is (C, H, W) uint8, prepared, from the cache

MOST_PIXELS = 1 << 28  # of a resized picture


class BaseDataset(torch.utils.data.Dataset, ABC):
    """Subclass this in data/NAME_dataset.py as <Name>Dataset; `--dataset_mode NAME` then finds it.

    Use `random`, `numpy.random` or torch's random numbers as you like: the loader seeds them for
    each sample, so that a run repeats whatever the number of workers or ranks. (A generator of
    your own, as from `numpy.random.default_rng()`, it cannot seed.) data/template_dataset.py is a
    worked example.
    """

    provides: tuple[str, ...] = ("A", "B")  # the images in a sample, for models to compare with
    quick_from_cache = True  # with --cache ram a sample takes a millisecond: no need of workers

    def __init__(self, opt: Namespace) -> None:
        """Keep the options; subclasses call this first and then list their files."""
        self.opt = opt
        self.root = opt.dataroot

    @staticmethod
    def modify_commandline_options(parser: ArgumentParser, is_train: bool) -> ArgumentParser:
        """Add options of this dataset, or change defaults; returns the parser."""
        return parser

    @staticmethod
    def check_options(opt: Namespace) -> Iterable[str]:
        """Sentences about options that cannot work with this dataset; none if all is well."""
        return ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample: images as (C, H, W) float tensors in [-1, 1], and the paths they are from.

        The models here read "A", "B" (images), "A_paths" and "B_paths" (str).
        """

    def to_cache(self) -> "Sequence[tuple[Pictures, Sequence[str]]]":
        """What `--cache ram` keeps: what reads the files, and the paths it is called with.

        A dataset that does not say so is one that the cache cannot help.
        """
        return ()


def channels(opt: Namespace) -> tuple[int, int]:
    """(channels of A, channels of B): the networks read A and write B, or the other way round."""
    if opt.direction == "BtoA":
        return opt.output_nc, opt.input_nc
    return opt.input_nc, opt.output_nc


def check_channels(opt: Namespace, *names: str) -> Iterator[str]:
    """A dataset of pictures has three channels, or one for grey; for `check_options`."""
    for name in names:
        if vars(opt)[name] not in (1, 3):
            yield (
                f"--{name} {vars(opt)[name]}: --dataset_mode {opt.dataset_mode} reads pictures "
                "with 3 channels, or 1 for grey; use one of these"
            )


def square(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """`load_size` in both directions."""
    return load_size, load_size


def scaled_to_width(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """`load_size` wide in the old proportions, but no lower than `crop_size`."""
    return load_size, max(int(load_size * height / width), crop_size)


def unchanged(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """The size as it is."""
    return width, height


def multiple_of_4(width: int, height: int, load_size: int, crop_size: int) -> tuple[int, int]:
    """The nearest size that two halvings in the generator leave whole."""
    return max(4, round(width / 4) * 4), max(4, round(height / 4) * 4)


class Preprocess(NamedTuple):
    """A row of PREPROCESS."""

    resize: Callable[[int, int, int, int], tuple[int, int]]
    crops: bool


PREPROCESS = {
    "resize_and_crop": Preprocess(square, crops=True),
    "crop": Preprocess(unchanged, crops=True),
    "scale_width": Preprocess(scaled_to_width, crops=False),
    "scale_width_and_crop": Preprocess(scaled_to_width, crops=True),
    "none": Preprocess(multiple_of_4, crops=False),
}


def preprocess_of(opt: Namespace) -> Preprocess:
    """The row of PREPROCESS that `--preprocess` names."""
    if opt.preprocess not in PREPROCESS:
        known = ", ".join(PREPROCESS)
        raise UserError(f"--preprocess {opt.preprocess} is not known; use one of {known}")
    return PREPROCESS[opt.preprocess]


def resized_size(opt: Namespace, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) after the resizing of `--preprocess` and before its crop."""
    return preprocess_of(opt).resize(*size, opt.load_size, opt.crop_size)


def get_params(opt: Namespace, size: tuple[int, int]) -> dict[str, Any]:
    """Draw one crop and one flip, to be used for several images that must stay aligned.

    Args:
        opt: reads preprocess, load_size and crop_size.
        size: (width, height) of the image before preprocessing.

    Returns:
        {"crop_pos": (x, y), "flip": bool}, for `get_transform`. In a direction in which the image
        is not larger than the crop, the position is 0.
    """
    position = random_position(resized_size(opt, size), opt.crop_size)
    return {"crop_pos": position, "flip": random.random() > 0.5}


def random_position(size: tuple[int, int], crop_size: int) -> tuple[int, int]:
    """(x, y) of a random crop that lies inside an image of (width, height) `size`."""
    width, height = size
    x = random.randint(0, max(0, width - crop_size))
    y = random.randint(0, max(0, height - crop_size))
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
        convert: False leaves the picture what it is, of PIL or uint8.

    Returns:
        A callable from a picture, of PIL or from the cache, to a (C, H, W) float32 tensor in
        [-1, 1]; it can be pickled.

    Raises:
        UserError: `--preprocess` is not known.
    """
    params = params or {"crop_pos": None, "flip": None}
    steps: list[Callable] = [partial(prepare, opt=opt, grayscale=grayscale, method=method)]
    if preprocess_of(opt).crops:
        steps.append(partial(crop, crop_size=opt.crop_size, position=params["crop_pos"]))
    if not opt.no_flip:
        steps.append(partial(flip, mirrored=params["flip"]))
    if convert:
        steps.append(to_tensor)
    return transforms.Compose(steps)


def prepare(
    picture: Picture, opt: Namespace, grayscale: bool, method: InterpolationMode | int
) -> Picture:
    """What of preprocessing is the same each time: colours, and the size for `--preprocess`.

    A picture from the cache has been here before.
    """
    if isinstance(picture, torch.Tensor):
        if grayscale and len(picture) != 1:
            raise ValueError("get_transform wants grey, and data.image_io.Pictures cached colours")
        return picture
    if grayscale:
        picture = F.rgb_to_grayscale(picture)
    width, height = resized_size(opt, picture.size)
    if width * height > MOST_PIXELS:  # of a picture one pixel wide, say
        raise UserError(
            f"--preprocess {opt.preprocess} would make {width}x{height} pixels of a picture of "
            f"{picture.width}x{picture.height}; take it out of the dataset, or choose another way"
        )
    return F.resize(picture, [height, width], interpolation=method)


def size_of(picture: Picture) -> tuple[int, int]:
    """(width, height)."""
    if isinstance(picture, torch.Tensor):
        return picture.shape[2], picture.shape[1]
    return picture.size


def crop(picture: Picture, crop_size: int, position: tuple[int, int] | None) -> Picture:
    """Cut out `crop_size` x `crop_size` at (x, y), at random if None.

    As in the original, an image that is larger in no direction is left as it is, and one that is
    larger in one direction only is filled up with black.
    """
    size = size_of(picture)
    if max(size) <= crop_size:
        return picture
    x, y = random_position(size, crop_size) if position is None else position
    return F.crop(picture, y, x, crop_size, crop_size)


def flip(picture: Picture, mirrored: bool | None) -> Picture:
    """Swap left and right; None: with probability 1/2."""
    if mirrored is None:
        mirrored = random.random() > 0.5
    return F.hflip(picture) if mirrored else picture


def to_unit(picture: Picture) -> torch.Tensor:
    """A picture as (C, H, W) float32 in [0, 1]; the same bits for both kinds of picture."""
    if isinstance(picture, torch.Tensor):
        return picture.float().div_(255)
    return F.to_tensor(picture)


def to_tensor(picture: Picture) -> torch.Tensor:
    """A picture as (C, H, W) float32 in [-1, 1], for any number of channels."""
    return to_unit(picture).sub_(0.5).div_(0.5)
