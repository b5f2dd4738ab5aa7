"""sRGB and CIE Lab.

sRGB curve: IEC 61966-2-1. Primaries: ITU-R BT.709 with white D65, 2° observer, as in C. Poynton,
"Frequently Asked Questions about Color". Lab: CIE 1976, with the rounded constants (0.008856,
7.787) that scikit-image uses too, so that models trained with its numbers stay valid.
"""

import torch
from torch import Tensor

XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)  # XYZ of D65


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert colours from sRGB to CIE Lab.

    Args:
        rgb: (..., 3, H, W) floats in [0, 1].

    Returns:
        (..., 3, H, W): L in [0, 100], a and b in about [-110, 110].
    """
    linear = torch.where(
        rgb > 0.04045, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92
    )
    t = mix(matrix(rgb), linear) / white(rgb)
    f = torch.where(t > 0.008856, t.clamp(min=0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
    x, y, z = f.unbind(-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert colours from CIE Lab to sRGB.

    Args:
        lab: (..., 3, H, W) floats, L in [0, 100].

    Returns:
        (..., 3, H, W) in [0, 1]; colours that sRGB does not have are clipped.
    """
    L, a, b = lab.unbind(-3)
    y = (L + 16) / 116
    f = torch.stack((y + a / 500, y, (y - b / 200).clamp(min=0)), dim=-3)
    t = torch.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787)
    linear = mix(torch.linalg.inv(matrix(lab)), t * white(lab))
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear).clamp(0, 1)


def mix(weights: Tensor, channels: Tensor) -> Tensor:
    """Multiply each pixel of (..., 3, H, W) by a 3x3 matrix."""
    return torch.einsum("ij,...jhw->...ihw", weights, channels)


def matrix(like: Tensor) -> Tensor:
    """XYZ_FROM_RGB in float64 precision, then on the device and in the type of `like`."""
    return torch.tensor(XYZ_FROM_RGB, dtype=like.dtype, device=like.device)


def white(like: Tensor) -> Tensor:
    """WHITE as (3, 1, 1), on the device and in the type of `like`."""
    return torch.tensor(WHITE, dtype=like.dtype, device=like.device).view(3, 1, 1)
