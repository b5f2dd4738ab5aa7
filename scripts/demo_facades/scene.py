"""A building's label map and its photograph.

Both are painted part by part, back to front, on a square scene, and then seen through the same
camera: so they agree to the pixel. The photograph is painted at twice its size and averaged
down, which smooths its edges; the label map keeps its hard flat colours.
"""

import zlib

import numpy as np
from numpy.random import Generator
from PIL import Image

from . import shapes
from .building import Box, Building, Part, random_building
from .looks import Look, random_look
from .painters import PAINTERS, Brush

# one colour for each class, along a rainbow as in the CMP Facade Database
PALETTE = {
    "sky": (0, 0, 85),
    "background": (0, 0, 170),
    "wall": (0, 0, 255),
    "molding": (85, 85, 255),
    "window": (0, 170, 255),
    "cornice": (0, 255, 170),
    "sill": (85, 255, 85),
    "balcony": (170, 255, 0),
    "blind": (255, 255, 0),
    "door": (255, 85, 0),
    "pillar": (255, 170, 0),
    "shop": (170, 0, 0),
    "roof": (170, 0, 170),
    "chimney": (255, 0, 170),
    "plant": (0, 128, 0),
    "street": (85, 85, 85),
}

# how far a part stands out of what is behind it, as a share of the scene: so long is its shadow
DEPTHS = {
    "cornice": 0.012, "sill": 0.010, "balcony": 0.030, "blind": 0.006, "molding": 0.005,
    "pillar": 0.008, "roof": 0.020, "plant": 0.008,
}  # fmt: skip
SHADOW_STEPS = (0.4, 0.8, 1.2)  # shares of the depth
OVERSAMPLING = 2


def draw_pair(seed: int, split: str, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Photograph and label map of building `index` of a split.

    They depend on the arguments only. The same building at another size is the same building.

    Returns:
        photo and label, both uint8 (size, size, 3); the label has colours of PALETTE only.
    """
    building, corners = subject(seed, split, index)
    rng = generator(seed, split, index, "photo")
    look = random_look(building.family, rng)
    scene = paint_photo(building, Brush(OVERSAMPLING * size, look, rng))
    photo = warp(scene, corners, OVERSAMPLING * size, Image.Resampling.BILINEAR)
    return expose(photo.reduce(OVERSAMPLING), look, rng), view_label(building, corners, size)


def draw_label(seed: int, split: str, index: int, size: int) -> np.ndarray:
    """Only the label map of `draw_pair`, without the work of painting the photograph."""
    return view_label(*subject(seed, split, index), size)


def subject(seed: int, split: str, index: int) -> tuple[Building, np.ndarray]:
    """The building, and the scene's points (4, 2) that the camera has in its corners."""
    rng = generator(seed, split, index, "building")
    return random_building(rng), random_view(rng)


def generator(seed: int, split: str, index: int, purpose: str) -> Generator:
    """A stream of its own for each purpose: what one draws does not change the others."""
    return np.random.default_rng([seed, zlib.crc32(f"{split}/{purpose}".encode()), index])


def paint_label(building: Building, px: int) -> np.ndarray:
    """Every part in the colour of its class, uint8 (px, px, 3)."""
    canvas = np.zeros((px, px, 3), np.uint8)
    for part in building.parts:
        region = canvas[pixels(part.box, px)]
        if part.shape == "rect":
            region[:] = PALETTE[part.kind]
        else:
            region[shapes.mask(part.shape, *region.shape[:2])] = PALETTE[part.kind]
    return canvas


def paint_photo(building: Building, brush: Brush) -> np.ndarray:
    """Every part as its painter sees it, on the shadow it throws; uint8 (px, px, 3)."""
    canvas = np.zeros((brush.px, brush.px, 3), np.float32)
    solid = np.zeros((brush.px, brush.px), bool)  # shadows fall on this, and not on the sky
    for part in building.parts:
        cast_shadow(canvas, solid, part, brush)
        place = pixels(part.box, brush.px)
        h, w = canvas[place].shape[:2]
        inside = shapes.mask(part.shape, h, w)
        cover(canvas[place], PAINTERS[part.kind](brush, h, w, part), inside)
        if part.kind not in ("sky", "background"):
            solid[place] |= inside
    return to_uint8(canvas)


def cover(region: np.ndarray, patch: np.ndarray, inside: np.ndarray) -> None:
    """Lay a painter's patch over the canvas where the part is, in place."""
    if patch.shape[2] == 4:
        region += (patch[..., :3] - region) * (patch[..., 3:] * inside[..., None])
    elif inside.all():
        region[:] = patch
    else:
        np.copyto(region, patch, where=inside[..., None])


def cast_shadow(canvas: np.ndarray, solid: np.ndarray, part: Part, brush: Brush) -> None:
    """Darken what lies below a part, and to the side away from the sun.

    The part's outline is laid down several times on the way of its shadow; where all of them
    fall it is darkest, and the far edge comes out soft.
    """
    if part.kind not in DEPTHS:
        return
    x0, y0, x1, y1 = part.box
    for share in SHADOW_STEPS:
        dy = share * DEPTHS[part.kind]
        dx = dy * brush.look.light
        place = pixels((x0 + dx, y0 + dy, x1 + dx, y1 + dy), brush.px)
        outline = shapes.mask(part.shape, *solid[place].shape) & solid[place]
        canvas[place] *= 1 - np.float32(0.2) * outline[..., None]


def pixels(box: Box, px: int) -> tuple[slice, slice]:
    """Rows and columns of a box, at least one of each, cut off at the scene's edge."""
    x0, y0, x1, y1 = (min(max(round(value * px), 0), px) for value in box)
    return slice(min(y0, px - 1), max(y1, y0 + 1)), slice(min(x0, px - 1), max(x1, x0 + 1))


def random_view(rng: Generator) -> np.ndarray:
    """Nearly frontal: each corner of the picture a little inside the scene, at random."""
    corners = np.array([(0.06, 0.06), (0.94, 0.06), (0.94, 0.95), (0.06, 0.95)])
    return corners + rng.uniform(-0.028, 0.028, (4, 2))


def warp(canvas: np.ndarray, corners: np.ndarray, px: int, resample: int) -> Image.Image:
    """The view of the scene between four of its points, as a picture of px x px pixels."""
    height = canvas.shape[0]
    ends = np.array([(0, 0), (px, 0), (px, px), (0, px)])
    coefficients = homography(ends, corners * height)
    picture = Image.fromarray(canvas)
    return picture.transform((px, px), Image.Transform.PERSPECTIVE, coefficients, resample)


def homography(points: np.ndarray, targets: np.ndarray) -> list[float]:
    """(a, ..., h) with u = (ax + by + c) / (gx + hy + 1), v = (dx + ey + f) / (gx + hy + 1).

    The projective map that takes four points (x, y) to four targets (u, v), by the 8 linear
    equations in Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 4.1.
    """
    rows = []
    for (x, y), (u, v) in zip(points, targets, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return np.linalg.solve(np.array(rows, float), targets.reshape(8)).tolist()


def view_label(building: Building, corners: np.ndarray, size: int) -> np.ndarray:
    """The label map through the camera; nearest neighbour, for its colours to stay pure."""
    canvas = paint_label(building, OVERSAMPLING * size)
    return np.asarray(warp(canvas, corners, size, Image.Resampling.NEAREST))


def expose(photo: Image.Image, look: Look, rng: Generator) -> np.ndarray:
    """Daylight, exposure, darker corners and sensor noise; uint8 (size, size, 3)."""
    image = np.asarray(photo, np.float32) / 255
    size = image.shape[0]
    light = rng.uniform(0.95, 1.05) + 0.025 * look.warmth * np.array([1, 0.2, -1], np.float32)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    vignette = 1 - 0.07 * (axis[:, None] ** 2 + axis[None] ** 2)
    noise = 0.006 * rng.standard_normal(image.shape, np.float32)
    return to_uint8(image * light * vignette[..., None] + noise)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1], clipped, to 0..255."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
