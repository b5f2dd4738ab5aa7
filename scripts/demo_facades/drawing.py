"""A building's label map and photograph: painted part by part, then seen through one camera.

The photograph is painted at twice its size and averaged down, which smooths its edges.
"""

import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

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
    rng, family, parts, corners = subject(seed, split, index)
    scene = Painter(family, OVERSAMPLING * size, rng).paint(parts)
    photo = warp(scene, corners, OVERSAMPLING * size, Image.Resampling.BILINEAR)
    image = np.asarray(photo.reduce(OVERSAMPLING), np.float32) / 255
    light = rng.uniform(0.95, 1.05) + rng.uniform(-0.025, 0.025) * np.float32([1, 0.2, -1])
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    vignette = 1 - 0.07 * (axis[:, None] ** 2 + axis[None] ** 2)
    noise = 0.006 * rng.standard_normal(image.shape, np.float32)
    photo = to_uint8(image * light * vignette[..., None] + noise)
    return photo, draw_label(seed, split, index, size)


def draw_label(seed: int, split: str, index: int, size: int) -> np.ndarray:
    """Only the label map of `draw_pair`, without the work of painting the photograph."""
    *_, parts, corners = subject(seed, split, index)
    scene = np.zeros((OVERSAMPLING * size, OVERSAMPLING * size), np.uint8)
    for part in parts:
        region = scene[pixels(part[1:5], *scene.shape)]
        region[mask(part.shape, *region.shape)] = list(PALETTE).index(part.kind)
    classes = warp(scene, corners, size, Image.Resampling.NEAREST)
    return np.uint8(list(PALETTE.values()))[np.asarray(classes)]


def subject(seed: int, split: str, index: int) -> tuple[Generator, str, list[Part], np.ndarray]:
    """Random numbers, family and parts of a building, and the camera's corners (4, 2)."""
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), index])
    corners = np.array([(0.06, 0.06), (0.06, 0.95), (0.94, 0.95), (0.94, 0.06)])
    return rng, *random_building(rng), corners + rng.uniform(-0.028, 0.028, (4, 2))


class Painter:
    """Paints the parts of one building in its family's materials, on a day of its own."""

    def __init__(self, family: str, px: int, rng: Generator):
        """Move the colours a little: what labels do not tell, a network can only average."""
        self.px, self.rng, row = px, rng, FAMILIES[family]
        shift = rng.normal(0, 0.025) + rng.normal(0, 0.02) * np.float32([1, 0.1, -1])
        self.colors: dict[str, np.ndarray] = {}
        for name, color in zip(COLORED, row.colors.split(), strict=True):
            self.colors[name] = np.clip(self.color(f"#{color}") + shift, 0.05, 0.97)
        self.textures = dict(zip(("wall", "ground", "roof"), row.textures.split(), strict=True))
        self.sun = rng.uniform(-0.8, 0.8)  # how far a shadow falls to the right, per unit downwards

    def paint(self, parts: list[Part]) -> np.ndarray:
        """Every part with its layers, on the shadow it casts; uint8 (px, px, 3)."""
        scene = np.zeros((self.px, self.px, 3), np.float32)
        solid = np.zeros((self.px, self.px), bool)  # shadows fall on this, and not on the sky
        for part in parts:
            for share in (0.4, 0.8, 1.2) if part.kind in DEPTHS else ():  # a soft far edge
                dy = share * DEPTHS[part.kind]
                place = pixels(np.add(part[1:5], (dy * self.sun, dy) * 2), self.px, self.px)
                shadow = mask(part.shape, *solid[place].shape) & solid[place]
                scene[place] *= 1 - np.float32(0.2) * shadow[..., None]
            place = pixels(part[1:5], self.px, self.px)
            inside = mask(part.shape, *solid[place].shape)
            patch = scene[place] if part.shape == "rect" else scene[place].copy()
            self.paint_layers(patch, part)
            np.copyto(scene[place], patch, where=inside[..., None])
            solid[place] |= inside & (part.kind not in ("sky", "background"))
        return to_uint8(scene)

    def paint_layers(self, patch: np.ndarray, part: Part) -> None:
        """Paint all layers of a part over the patch, in place."""
        for material, x0, y0, x1, y1, shape in LAYERS[part.layers or part.kind]:
            x0, x1 = (x0, x1) if self.sun > 0 else (1 - x1, 1 - x0)
            region = patch[pixels((x0, y0, x1, y1), *patch.shape[:2])]
            color, alpha = self.surface(material, *region.shape[:2])
            if shape != "rect":
                alpha = alpha * mask(part.shape if shape == "=" else shape, *region.shape[:2])
            if np.ndim(alpha) == 0 and alpha == 1:
                region[:] = color
            else:
                region += (color - region) * np.float32(alpha)[..., None]

    def color(self, name: str) -> np.ndarray:
        """RGB in [0, 1] of one of COLORED or of a hexadecimal number."""
        return self.colors[name] if name in self.colors else np.float32(getrgb(name)) / 255

    def surface(self, material: str, h: int, w: int) -> tuple[np.ndarray, Any]:
        """A material's colour (h, w, 3) and how much it covers, (h, w) or a number."""
        row = MATERIALS[material]
        y, x = np.arange(h, dtype=np.float32)[:, None], np.arange(w, dtype=np.float32)[None]
        color, shade = self.color(row.color), row.top + (row.foot - row.top) * y / h
        color = color + (self.color(row.fade or row.color) - color) * (y / h)[..., None]
        if row.texture == "-":
            return color * shade[..., None], row.alpha
        texture = TEXTURES[self.textures.get(row.texture, row.texture)]
        height, width = max(texture.row * self.px, 1), max(texture.col * self.px, 1)
        level = (y // height).astype(int)
        x = x + np.float32(texture.bond * width) * (level % 2).astype(np.float32)
        block, y, x = (x // width).astype(int), y % height, x % width
        noise = self.noise(h, w, texture.cell * self.px) if texture.noise or texture.spots else 0
        shade = shade * (1 + texture.noise * noise - texture.fall * ((y / height) ** 3 - 0.1))
        if texture.tone:
            tones = self.rng.uniform(-1, 1, (level.max() + 1, block.max() + 1))
            shade = shade * (1 + texture.tone * tones.astype(np.float32)[level, block])
        if texture.swell:
            shade = shade * (1 + texture.swell * (np.sin(np.pi * x / width) - 0.6))
        color = color * shade[..., None]
        if not texture.strength:
            return color, row.alpha
        line = max(texture.line * self.px, 1)
        joint = ((y < line) & (texture.row < 1)) | ((x < line) & (texture.col < 1))
        joint = np.clip(texture.spots * noise - 0.1, 0, 0.85) if texture.spots else joint
        joint = np.float32(texture.strength) * joint
        color = color + (self.color(texture.joint) - color) * joint[..., None]
        return color, 1 if row.alpha == 1 else row.alpha + (1 - row.alpha) * joint

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
