"""Surfaces: float32 patches (h, w, 3) in about [0, 1]. `px` is how many pixels the scene has."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from .looks import RGB


def smooth_noise(rng: Generator, h: int, w: int, cell: float, stretch: float = 1.0) -> np.ndarray:
    """(h, w) in about [-1, 1]: blobs `cell` pixels wide and `stretch` times as high."""
    rows, cols = int(h / (cell * stretch)) + 3, int(w / cell) + 3
    grid = rng.uniform(-1, 1, (rows, cols)).astype(np.float32)
    box = (0.5, 0.5, 0.5 + w / cell, 0.5 + h / (cell * stretch))
    return np.asarray(Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC, box=box))


def fractal_noise(rng: Generator, h: int, w: int, cell: float, octaves: int = 3) -> np.ndarray:
    """(h, w) in about [-1, 1]: noise at `cell` pixels, half as strong at half of it, and so on."""
    layers = [smooth_noise(rng, h, w, max(cell / 2**i, 1.0)) / 2**i for i in range(octaves)]
    return sum(layers) / (2 - 0.5 ** (octaves - 1))


def tinted(color: RGB, brightness: np.ndarray) -> np.ndarray:
    """(h, w) brightness, 1 meaning the color itself -> (h, w, 3)."""
    return np.asarray(color, np.float32) * brightness[..., None].astype(np.float32)


def masonry(
    rng: Generator, h: int, w: int, row: float, col: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks in running bond: each one's tone in [-1, 1], and where in it a pixel is.

    Returns:
        tone (h, w); distance in pixels from the block's top (h, 1) and from its left side (h, w).
    """
    y = np.arange(h, dtype=np.float32)[:, None]
    rows = (y // row).astype(int)
    x = np.arange(w, dtype=np.float32)[None] + (rows % 2) * col / 2
    cols = (x // col).astype(int)
    tones = rng.uniform(-1, 1, (rows.max() + 1, cols.max() + 1)).astype(np.float32)
    return tones[rows, cols], y % row, x % col


def brick(rng: Generator, h: int, w: int, px: int, color: RGB) -> np.ndarray:
    """Bricks of changing tone in light mortar."""
    tone, y, x = masonry(rng, h, w, 0.0125 * px, 0.034 * px)
    dirt = 0.05 * fractal_noise(rng, h, w, 0.12 * px)
    patch = tinted(color, 1 + 0.13 * tone + dirt)
    joint = (y < 0.0028 * px) | (x < 0.003 * px)
    mortar = tinted((0.80, 0.74, 0.67), 0.93 + dirt)
    return np.where(joint[..., None], 0.45 * patch + 0.55 * mortar, patch)


def blocks(depth: float, row: float, col: float) -> Callable[..., np.ndarray]:
    """A texture of cut stones `row` by `col` large whose joints are `depth` dark."""

    def texture(rng: Generator, h: int, w: int, px: int, color: RGB) -> np.ndarray:
        tone, y, x = masonry(rng, h, w, row * px, col * px)
        stone = 1 + 0.035 * tone + 0.05 * fractal_noise(rng, h, w, 0.05 * px, 4)
        line = 0.004 * px
        joint = (y < line) | (x < line)
        lit = (y >= line) & (y < 2 * line)  # the upper edge of each stone catches the light
        return tinted(color, stone - depth * joint + 0.3 * depth * (lit & ~joint))

    return texture


def plaster(rng: Generator, h: int, w: int, px: int, color: RGB) -> np.ndarray:
    """Render with soft patches, and streaks where rain runs down."""
    patches = 0.045 * fractal_noise(rng, h, w, 0.15 * px, 5)
    streaks = 0.025 * smooth_noise(rng, h, w, 0.02 * px, stretch=12)
    return tinted(color, 1 + patches + streaks)


def panels(rng: Generator, h: int, w: int, px: int, color: RGB) -> np.ndarray:
    """Smooth sheets in a square grid with thin dark gaps."""
    size = 0.075 * px
    y, x = np.arange(h)[:, None] % size, np.arange(w)[None] % size
    gap = (y < 0.003 * px) | (x < 0.003 * px)
    return tinted(color, 1 + 0.02 * fractal_noise(rng, h, w, 0.2 * px) - 0.13 * gap)


def slate(rng: Generator, h: int, w: int, px: int, color: RGB) -> np.ndarray:
    """Thin overlapping plates: the lower edge of each row throws a fine shadow."""
    row = 0.0145 * px
    tone, y, x = masonry(rng, h, w, row, 0.02 * px)
    shade = 1.06 - 0.32 * (y / row) ** 3 - 0.1 * (x < 0.002 * px)
    return tinted(color, shade * (1 + 0.10 * tone + 0.05 * fractal_noise(rng, h, w, 0.1 * px)))


def tiles(rng: Generator, h: int, w: int, px: int, color: RGB) -> np.ndarray:
    """Round clay tiles in rows."""
    row, col = 0.02 * px, 0.0165 * px
    tone, y, _ = masonry(rng, h, w, row, col)
    x = np.arange(w, dtype=np.float32)[None] % col / col
    ridge = 0.78 + 0.34 * np.sin(np.pi * x)
    shade = ridge * (1.05 - 0.35 * (y / row) ** 4)
    return tinted(color, shade * (1 + 0.13 * tone + 0.05 * fractal_noise(rng, h, w, 0.1 * px)))


TEXTURES = {
    "brick": brick,
    "ashlar": blocks(depth=0.10, row=0.032, col=0.085),
    "rustic": blocks(depth=0.24, row=0.036, col=0.11),
    "plaster": plaster,
    "panels": panels,
    "slate": slate,
    "tiles": tiles,
}
