"""Images in and out, and folders: helpers that people's own files import too."""

import os
import zlib
from collections.abc import Iterable
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


def to_uint8(images: Any) -> torch.Tensor:
    """What `tensor2im` makes of each image of (N, C, H, W), on their device: (N, H, W, 3) uint8.

    People's own models may show a (C, H, W) tensor or a numpy image: then N is 1.
    """
    if isinstance(images, torch.Tensor) and images.dim() == 4:
        return _levels(images).to(torch.uint8).contiguous()
    return torch.from_numpy(tensor2im(images))[None]


def _levels(images: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) in [-1, 1] to (..., H, W, C) float32 in [0, 255]; grey becomes RGB."""
    images = images.detach().float().nan_to_num()
    if images.shape[-3] == 1:
        images = images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    return ((images.movedim(-3, -1) + 1) / 2.0 * 255.0).clamp(0, 255)


def save_image(image_numpy: np.ndarray, image_path: str, aspect_ratio: float = 1.0) -> None:
    """Write an image, whole or not at all; UserError if it cannot be written.

    Args:
        image_numpy: (H, W, 3) or (H, W), uint8.
        image_path: its suffix decides the format.
        aspect_ratio: of a pixel: 2 makes the image twice as wide, 0.5 twice as high.
    """
    image = Image.fromarray(image_numpy)
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
