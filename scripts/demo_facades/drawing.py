"""A building's photograph and label map: painted part by part, then seen through one camera.

The photograph is painted at twice its size and averaged down, which smooths its edges.
"""

import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from PIL import Image
from PIL.ImageColor import getrgb

from .building import random_building
from .tables import COLORED, DEPTHS, FAMILIES, LAYERS, MATERIALS, PALETTE, SHAPES, TEXTURES, Part

OVERSAMPLING = 2


def draw_pair(seed: int, split: str, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Photograph and label map of building `index` of a split, a function of the arguments.

    Returns:
        photo and label, both uint8 (size, size, 3); the label has colours of PALETTE only.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    family, parts = random_building(rng)
    corners = np.array([(0.06, 0.06), (0.06, 0.95), (0.94, 0.95), (0.94, 0.06)])
    corners += rng.uniform(-0.028, 0.028, (4, 2))
    scene, classes = Painter(family, OVERSAMPLING * size, rng).paint(parts)
    photo = warp(scene, corners, OVERSAMPLING * size, Image.Resampling.BILINEAR)
    image = np.asarray(photo.reduce(OVERSAMPLING), np.float32) / 255
    light = rng.uniform(0.95, 1.05) + rng.uniform(-0.025, 0.025) * np.float32([1, 0.2, -1])
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    vignette = 1 - 0.07 * (axis[:, None] ** 2 + axis[None] ** 2)
    noise = 0.006 * rng.standard_normal(image.shape, np.float32)
    label = np.asarray(warp(classes, corners, size, Image.Resampling.NEAREST))
    return (
        to_uint8(image * light * vignette[..., None] + noise),
        np.uint8(list(PALETTE.values()))[label],
    )


class Painter:
    """Paints the parts of one building in its family's materials, on a day of its own."""

    def __init__(self, family: str, px: int, rng: Generator):
        # colours move a little: what labels do not tell, a network can only average
        self.px, self.rng, row = px, rng, FAMILIES[family]
        shift = rng.normal(0, 0.025) + rng.normal(0, 0.02) * np.float32([1, 0.1, -1])
        self.colors: dict[str, np.ndarray] = {}
        for name, color in zip(COLORED, row.colors, strict=True):
            self.colors[name] = np.clip(self.color(color) + shift, 0.05, 0.97)
        self.textures = dict(zip(("wall", "ground", "roof"), row.textures, strict=True))
        self.sun = rng.uniform(-0.8, 0.8)  # how far a shadow falls to the right, per unit downwards

    def paint(self, parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
        """Every part on the shadow it casts; uint8 (px, px, 3), and classes as uint8 (px, px)."""
        scene = np.zeros((self.px, self.px, 3), np.float32)
        classes = np.zeros((self.px, self.px), np.uint8)
        for part in parts:
            for share in (0.4, 0.8, 1.2) if part.kind in DEPTHS else ():  # a soft far edge
                dy = share * DEPTHS[part.kind]
                place = pixels(np.add(part[1:5], (dy * self.sun, dy) * 2), self.px, self.px)
                solid = classes[place] > 1  # not the sky, nor the background
                shadow = mask(part.shape, *solid.shape) & solid
                scene[place] *= 1 - np.float32(0.2) * shadow[..., None]
            place = pixels(part[1:5], self.px, self.px)
            inside = mask(part.shape, *classes[place].shape)
            classes[place][inside] = list(PALETTE).index(part.kind)
            self.paint_layers(scene[place], inside, part)
        return to_uint8(scene), classes

    def paint_layers(self, patch: np.ndarray, inside: np.ndarray, part: Part) -> None:
        """Paint all layers of a part over the patch, in place, where it is inside."""
        for material, x0, y0, x1, y1, shape in LAYERS[part.layers or part.kind]:
            x0, x1 = (x0, x1) if self.sun > 0 else (1 - x1, 1 - x0)
            box = pixels((x0, y0, x1, y1), *inside.shape)
            color, alpha = self.surface(material, *inside[box].shape)
            alpha = alpha * mask(part.shape if shape == "=" else shape, *alpha.shape)
            patch[box] = mix(patch[box], color, alpha * inside[box])

    def color(self, name: str) -> np.ndarray:
        """RGB in [0, 1] of one of COLORED or of a hexadecimal number."""
        return self.colors[name] if name in self.colors else np.float32(getrgb(name)) / 255

    def surface(self, material: str, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
        """A material's colour (h, w, 3) and how much it covers, (h, w)."""
        row = MATERIALS[material]
        texture = TEXTURES[self.textures.get(row.texture, row.texture)]
        y, x = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None]
        color = mix(self.color(row.color), self.color(row.fade or row.color), y / h)
        shade = row.top + (row.foot - row.top) * y / h
        height, width, line = (max(length * self.px, 1) for length in texture[:3])
        level = (y // height).astype(int)
        x = x + np.float32(texture.bond * width) * (level % 2).astype(np.float32)
        block, y, x = (x // width).astype(int), y % height, x % width
        noise = self.noise(h, w, texture.cell * self.px) if texture.noise or texture.spots else 0
        tones = self.rng.uniform(-1, 1, (level.max() + 1, block.max() + 1)).astype(np.float32)
        shade = shade * (1 + texture.noise * noise - texture.fall * ((y / height) ** 3 - 0.1))
        shade = shade * (1 + texture.tone * tones[level, block])
        joint = ((y < line) & (texture.row < 1)) | ((x < line) & (texture.col < 1))
        joint = np.maximum(joint, np.clip(texture.spots * noise - 0.1, 0, 0.85)) * texture.strength
        color = mix(color * shade[..., None], self.color(texture.joint), joint)
        return color, row.alpha + (1 - row.alpha) * joint

    def noise(self, h: int, w: int, cell: float) -> np.ndarray:
        """(h, w) in about [-1, 1]: blobs `cell` pixels wide, and ever weaker ones at half of it."""
        total = np.zeros((h, w), np.float32)
        for octave in range(3):
            size = max(cell / 2**octave, 1.0)
            grid = self.rng.uniform(-1, 1, (int(h / size) + 3, int(w / size) + 3))
            box = (0.5, 0.5, 0.5 + w / size, 0.5 + h / size)
            blobs = Image.fromarray(np.float32(grid)).resize((w, h), Image.BICUBIC, box=box)
            total += np.asarray(blobs) / (1.75 * 2**octave)
        return total


def mix(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """One colour under another that covers it by alpha, (h, w)."""
    return below + (above - below) * np.float32(alpha)[..., None]


def pixels(box: Iterable[float], h: int, w: int) -> tuple[slice, slice]:
    """Rows and columns of a box in h x w pixels, at least one of each, cut off at the edge."""
    limits = zip(box, (w, h) * 2, strict=True)
    x0, y0, x1, y1 = (min(max(round(value * end), 0), end) for value, end in limits)
    return slice(min(y0, h - 1), max(y1, y0 + 1)), slice(min(x0, w - 1), max(x1, x0 + 1))


@lru_cache(4096)
def mask(shape: str, h: int, w: int) -> np.ndarray:
    """The shape that fills a box of h x w pixels, bool (h, w)."""
    y, x = (np.arange(h)[:, None] + 0.5) / h, (np.arange(w)[None] + 0.5) / w * 2 - 1
    return SHAPES[shape](y, x, w / h)


def warp(scene: np.ndarray, corners: np.ndarray, px: int, resample: int) -> Image.Image:
    """The view of the scene between four of its points, as an image of px x px pixels."""
    quad = (corners * len(scene)).ravel().tolist()
    return Image.fromarray(scene).transform((px, px), Image.Transform.QUAD, quad, resample)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1], clipped, to 0..255."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
