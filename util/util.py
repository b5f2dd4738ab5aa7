"""Images in and out, and folders: helpers that people's own files import too."""

import os
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from util.files import atomic_write, explain_write_errors

# Looking for more than runs of equal bytes makes photographs no smaller and takes 3x the time.
PNG = {"compress_type": zlib.Z_RLE}


def tensor2im(input_image: Any, imtype: type = np.uint8) -> Any:
    """Turn a tensor of images into an array that can be shown or saved.

    Args:
        input_image: (N, C, H, W), of which the first is taken, or (C, H, W), in [-1, 1]; values
            outside are clipped. A numpy array is only cast, anything else returned as it is.
        imtype: numpy type of the result.

    Returns:
        (H, W, C) array in [0, 255], rounded down; one channel becomes three.
    """
    if isinstance(input_image, np.ndarray):
        return input_image.astype(imtype)
    if not isinstance(input_image, torch.Tensor):
        return input_image
    image = input_image[0] if input_image.dim() == 4 else input_image
    return _levels(image).cpu().numpy().astype(imtype)


def to_uint8(
    images: Any, bands: Sequence[int] = (1, 2, 3), shown: tuple[float, float] = (-1.0, 1.0)
) -> torch.Tensor:
    """Images for people to look at: (N, C, H, W) to (N, H, W, 3) uint8, on their device.

    Of more than 3 channels the `bands` are shown, counted from 1; of 2 the first. `shown` is the
    part of [-1, 1] that goes from black to white. What `tensor2im` makes of 1 and 3 channels
    otherwise. People's own models may show a (C, H, W) tensor or a numpy image: then N is 1.
    """
    if not isinstance(images, torch.Tensor):
        return torch.from_numpy(tensor2im(images))[None]
    images = (images if images.dim() == 4 else images[None]).detach()
    channels = images.shape[1]
    if channels > 3:
        images = images[:, [min(band, channels) - 1 for band in bands]]
    elif channels == 2:
        images = images[:, :1]
    if shown != (-1.0, 1.0):
        images = (images.float() - shown[0]) * (2 / (shown[1] - shown[0])) - 1
    return _levels(images).to(torch.uint8).contiguous()


def _levels(images: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) in [-1, 1] to (..., H, W, C) float32 in [0, 255]; grey becomes RGB."""
    images = images.detach().float().nan_to_num()
    if images.shape[-3] == 1:
        images = images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    return ((images.movedim(-3, -1) + 1) / 2.0 * 255.0).clamp(0, 255)


def save_image(image_numpy: np.ndarray, image_path: str, aspect_ratio: float = 1.0) -> None:
    """Write an image, whole or not at all; UserError if it cannot be written.

    Args:
        image_numpy: (H, W, 3), (H, W, 1) or (H, W), uint8.
        image_path: its suffix decides the format.
        aspect_ratio: of a pixel: 2 makes the image twice as wide, 0.5 twice as high.
    """
    image = Image.fromarray(image_numpy[..., 0] if image_numpy.shape[2:] == (1,) else image_numpy)
    if aspect_ratio != 1:
        width, height = image.width * max(aspect_ratio, 1), image.height / min(aspect_ratio, 1)
        image = image.resize((int(width), int(height)), Image.Resampling.BICUBIC)
    suffix = os.path.splitext(image_path)[1].lower()
    with explain_write_errors(image_path), atomic_write(image_path) as file:
        image.save(file, format=Image.registered_extensions().get(suffix, "PNG"), **PNG)


def mkdirs(paths: str | Iterable[str]) -> None:
    """Make a folder, or several, with those above, unless they exist; UserError if that fails."""
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        with explain_write_errors(path):
            os.makedirs(path, exist_ok=True)
