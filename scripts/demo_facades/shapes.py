"""Outlines of parts, for the label map and the picture alike: bool masks (h, w) of a box."""

import numpy as np


def mask(shape: str, h: int, w: int, inset: int = 0) -> np.ndarray:
    """The shape filling a box of h x w pixels, its edge moved inwards by `inset` pixels."""
    inside = np.zeros((h, w), bool)
    inner_h, inner_w = h - 2 * inset, w - 2 * inset
    if inner_h > 0 and inner_w > 0:
        y = (np.arange(inner_h)[:, None] + 0.5) / inner_h
        x = np.abs((np.arange(inner_w)[None] + 0.5) / inner_w - 0.5) * 2
        fits = SHAPES[shape](y, x, inner_w / inner_h)
        inside[inset : h - inset, inset : w - inset] = fits
    return inside


def arch(y: np.ndarray, x: np.ndarray, aspect: float) -> np.ndarray:
    """A rectangle under a half circle, or under a flatter curve where the box is wide."""
    rise = min(aspect / 2, 0.5)
    return (y >= rise) | (x**2 + ((rise - y) / rise) ** 2 <= 1)


# each: y from 0 at the top to 1, |x| from 0 in the middle to 1 at the sides, width / height
SHAPES = {
    "rect": lambda y, x, aspect: (y >= 0) & (x >= 0),
    "arch": arch,
    "round": lambda y, x, aspect: x**2 + (2 * y - 1) ** 2 <= 1,
    "gable": lambda y, x, aspect: x <= y,
    "steep": lambda y, x, aspect: x <= 0.86 + 0.14 * y,
    "mansard": lambda y, x, aspect: x <= 0.90 + 0.10 * np.sqrt(y),
    "hip": lambda y, x, aspect: x <= 0.72 + 0.28 * y,
}
