"""Small helpers, among them those that people's own model and dataset files import."""

import os
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from util.files import atomic_write, explain_write_errors

# For the PNG writer; others ignore it. Photographs hardly repeat, so looking for more than runs of
# equal bytes makes no smaller files (1 % either way) in 3x the time.
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


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """What `tensor2im` makes of each image of a batch, on their device: a quarter of the bytes.

    Args:
        images: (N, C, H, W) in [-1, 1]; values outside are clipped.

    Returns:
        (N, H, W, C) uint8, rounded down; one channel becomes three.
    """
    return _levels(images).to(torch.uint8).contiguous()


def _levels(images: torch.Tensor) -> torch.Tensor:
    """(..., C, H, W) in [-1, 1] to (..., H, W, C) float32 in [0, 255]; grey becomes RGB."""
    images = images.detach().float().nan_to_num()
    if images.shape[-3] == 1:
        images = images.expand(*images.shape[:-3], 3, *images.shape[-2:])
    return ((images.movedim(-3, -1) + 1) / 2.0 * 255.0).clamp(0, 255)


def save_image(image_numpy: np.ndarray, image_path: str, aspect_ratio: float = 1.0) -> None:
    """Write an image; a reader never sees half a file.

    Args:
        image_numpy: (H, W, 3) or (H, W), uint8.
        image_path: where to; its suffix decides the format.
        aspect_ratio: width over height of a pixel: 2 makes the image twice as wide, 0.5 twice
            as high.

    Raises:
        UserError: the file cannot be written.
    """
    image = Image.fromarray(image_numpy)
    width, height = image.size
    if aspect_ratio > 1:
        image = image.resize((int(width * aspect_ratio), height), Image.Resampling.BICUBIC)
    elif aspect_ratio < 1:
        image = image.resize((width, int(height / aspect_ratio)), Image.Resampling.BICUBIC)
    suffix = os.path.splitext(image_path)[1].lower()
    with explain_write_errors(image_path), atomic_write(image_path) as file:
        image.save(file, format=Image.registered_extensions().get(suffix, "PNG"), **PNG)


def mkdirs(paths: str | Iterable[str]) -> None:
    """Make a folder, or several, with the folders above; those that exist are left alone."""
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        mkdir(path)


def mkdir(path: str) -> None:
    """Make a folder, with those above it, unless it exists.

    Raises:
        UserError: it cannot be made.
    """
    with explain_write_errors(path):
        os.makedirs(path, exist_ok=True)


def diagnose_network(net: nn.Module, name: str = "network") -> None:
    """Print the mean absolute gradient over the parameters of a network."""
    gradients = [p.grad.abs().mean() for p in net.parameters() if p.grad is not None]
    print(name)
    print(float(torch.stack(gradients).mean()) if gradients else 0.0)


def print_numpy(x: np.ndarray, val: bool = True, shp: bool = False) -> None:
    """Print the statistics, and with `shp` the shape, of an array."""
    if shp:
        print(f"shape {x.shape}")
    if val:
        print(f"from {x.min():.4g} to {x.max():.4g}, mean {x.mean():.4g}, std {x.std():.4g}")
