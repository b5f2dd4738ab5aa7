"""Conversion between sRGB (IEC 61966-2-1, BT.709 primaries, white D65) and CIE 1976 Lab.

The matrix is that of C. Poynton, "Frequently Asked Questions about Color". The rounded constants
(0.008856, 7.787) are scikit-image's too, so that models trained with its numbers stay valid.
"""

import torch
from torch import Tensor

XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = [[[0.95047]], [[1.0]], [[1.08883]]]  # XYZ of D65, (3, 1, 1)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """From sRGB, (..., 3, H, W) floats in [0, 1], to L in [0, 100], a and b about ±110."""
    curved = ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    linear = torch.where(rgb > 0.04045, curved, rgb / 12.92)
    t = _mix(rgb.new_tensor(XYZ_FROM_RGB), linear) / rgb.new_tensor(WHITE)
    f = torch.where(t > 0.008856, t.clamp(min=0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
    x, y, z = f.unbind(-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """From CIE Lab, (..., 3, H, W) floats, to sRGB in [0, 1]; colours outside of it are clipped."""
    L, a, b = lab.unbind(-3)
    y = (L + 16) / 116
    f = torch.stack((y + a / 500, y, (y - b / 200).clamp(min=0)), dim=-3)
    t = torch.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787)
    linear = _mix(lab.new_tensor(XYZ_FROM_RGB).inverse(), t * lab.new_tensor(WHITE))
    curved = 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear > 0.0031308, curved, 12.92 * linear).clamp(0, 1)


def _mix(weights: Tensor, channels: Tensor) -> Tensor:
    return torch.einsum("ij,...jhw->...ihw", weights, channels)
