"""How each class looks from the front: one painter for each, listed in PAINTERS.

A painter fills its part's box with a float32 patch (h, w, 3), or (h, w, 4) with alpha last where
one sees through the part. Colours are in [0, 1]; lengths are shares of the scene, through
`Brush.length`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from . import shapes
from .building import Part
from .looks import RGB, Look
from .textures import TEXTURES, fractal_noise, smooth_noise, tinted


@dataclass(frozen=True)
class Brush:
    """What every painter needs: pixels per scene, the building's look, and a source of chance."""

    px: int
    look: Look
    rng: Generator

    def length(self, share: float) -> int:
        """`share` of the scene in whole pixels, at least one."""
        return max(1, round(share * self.px))


def down(h: int, top: float, bottom: float) -> np.ndarray:
    """(h, 1): a straight change from `top` to `bottom`."""
    return np.linspace(top, bottom, h, dtype=np.float32)[:, None]


def across(w: int, left: float, right: float) -> np.ndarray:
    """(1, w): a straight change from `left` to `right`."""
    return np.linspace(left, right, w, dtype=np.float32)[None]


def flat(h: int, w: int, color: RGB, brightness: np.ndarray | float = 1.0) -> np.ndarray:
    """One color, with brightness of any shape that spreads to (h, w)."""
    return tinted(color, np.broadcast_to(np.float32(brightness), (h, w)))


def blend(below: np.ndarray, above: RGB | np.ndarray, alpha: np.ndarray | float) -> np.ndarray:
    """`above` over `below`; alpha (h, w), (h, 1), (1, w) or a number."""
    alpha = np.asarray(alpha, np.float32)
    alpha = alpha[..., None] if alpha.ndim else alpha
    return below + (np.asarray(above, np.float32) - below) * alpha


def bevel(patch: np.ndarray, width: int, sunken: bool = False) -> np.ndarray:
    """Lighten the upper edge and darken the lower one, in place; the other way if sunken."""
    lit, dark = (1.15, 0.72) if not sunken else (0.68, 1.12)
    patch[:width] *= lit
    patch[-width:] *= dark
    patch[:, :width] *= (lit + 1) / 2
    patch[:, -width:] *= (dark + 1) / 2
    return patch


def sky(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """Blue above, pale below, with clouds."""
    height = down(h, 0, 1)
    blue = blend(flat(h, w, (0.36, 0.58, 0.88)), (0.80, 0.88, 0.95), height)
    noise = fractal_noise(brush.rng, h, w, 0.22 * brush.px, 3)
    clouds = np.clip(1.6 * noise - 0.1, 0, 0.85)
    return blend(blue, (0.97, 0.97, 0.96), clouds)


def background(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A neighbour in the haze, with a hint of its storeys."""
    storey, bay = brush.length(0.12), brush.length(0.07)
    y, x = np.arange(h)[:, None] % storey / storey, np.arange(w)[None] % bay / bay
    panes = (y > 0.3) & (y < 0.75) & (x > 0.3) & (x < 0.75)
    grain = 0.03 * smooth_noise(brush.rng, h, w, 0.05 * brush.px)
    patch = flat(h, w, (0.68, 0.68, 0.71), down(h, 1.04, 0.88) - 0.08 * (y < 0.05) + grain)
    return blend(patch, (0.50, 0.54, 0.61), 0.75 * panes)


def wall(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """The family's masonry, a little brighter on the side of the sun, dirty at the foot."""
    look, ground = brush.look, part.variant == "ground"
    texture = TEXTURES[look.ground_texture if ground else look.wall_texture]
    patch = texture(brush.rng, h, w, brush.px, look.ground if ground else look.wall)
    patch *= (across(w, 1, 1) + np.sign(look.light) * across(w, 0.03, -0.03))[..., None]
    if ground:
        foot = np.clip(down(h, -3.2, 1), 0, 1)
        patch = blend(patch, (0.36, 0.33, 0.30), 0.35 * foot**1.5)
    return patch


def roof(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """Slates or tiles, lighter towards the ridge, which has a cap."""
    patch = TEXTURES[brush.look.roof_texture](brush.rng, h, w, brush.px, brush.look.roof)
    patch *= down(h, 1.10, 0.90)[..., None]
    ridge = brush.length(0.007)
    patch[:ridge] = flat(ridge, w, brush.look.roof, down(ridge, 1.3, 0.8))
    return patch


def chimney(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A brick stack under a slab."""
    patch = TEXTURES["brick"](brush.rng, h, w, brush.px, (0.66, 0.40, 0.32))
    patch *= across(w, 1.08, 0.82)[..., None]
    cap = brush.length(0.012)
    patch[:cap] = flat(cap, w, (0.74, 0.70, 0.66), down(cap, 1.1, 0.8))
    return patch


THIN, THICK = 0.0025, 0.006
# where bars divide the glass, as shares of its width and of its height, and how wide they are
GLAZING = {
    "sash": ([(0.5, THIN)], [(0.26, THIN), (0.5, THICK), (0.76, THIN)]),
    "casement": ([(0.5, THICK)], [(0.30, THICK), (0.65, THIN)]),
    "wide": ([(0.34, THICK), (0.66, THIN)], []),
}


def window(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """Glass with curtains behind and the sky in it, bars in front, in the shadow of its reveal."""
    patch = curtains(brush, reflecting_glass(brush, h, w))
    frame = ~shapes.mask(part.shape, h, w, brush.length(0.006))
    upright, level = GLAZING[brush.look.glazing]
    for share, width in upright:
        frame[:, bar(brush, share * w, width)] = True
    for share, width in level:
        frame[bar(brush, share * h, width)] = True
    patch = blend(patch, flat(h, w, brush.look.frame, down(h, 0.98, 0.9)), frame)
    return reveal(brush, patch)


def bar(brush: Brush, centre: float, width: float) -> slice:
    """The pixels of a bar; `centre` in pixels, `width` a share of the scene."""
    pixels = brush.length(width)
    start = round(centre - pixels / 2)
    return slice(start, start + pixels)


def reflecting_glass(brush: Brush, h: int, w: int) -> np.ndarray:
    """Dark glass, bluer and lighter towards the top, with one slanting streak of light."""
    sky_share = np.clip(down(h, 1, -0.25), 0, 1)
    patch = blend(flat(h, w, (0.10, 0.12, 0.15)), (0.40, 0.54, 0.70), 0.9 * sky_share)
    slant = across(w, 0, 1) + down(h, 0, 0.7 * h / w)
    streak = np.exp(-(((slant - brush.rng.uniform(0.5, 0.9)) / 0.16) ** 2))
    return blend(patch, (0.62, 0.70, 0.78), 0.26 * streak)


def curtains(brush: Brush, patch: np.ndarray) -> np.ndarray:
    """Folds of cloth, gathered at both sides, seen dimly through the glass."""
    h, w = patch.shape[:2]
    side = np.abs(across(w, -1, 1))
    opening = 0.72 - 0.32 * (1 - down(h, 0, 1)) ** 2  # wider apart lower down
    folds = 0.42 + 0.10 * np.cos(side * 38)
    cloth = flat(h, w, (1.0, 0.95, 0.86), folds)
    return blend(patch, cloth, 0.62 * np.clip((side - opening) * 12, 0, 1))


def reveal(brush: Brush, patch: np.ndarray) -> np.ndarray:
    """The shadow of the wall's thickness: from above, and from the side of the sun."""
    depth = brush.length(0.012)
    patch[:depth] *= down(depth, 0.42, 0.75)[..., None]
    side = max(1, round(depth * abs(brush.look.light)))
    columns = slice(0, side) if brush.look.light > 0 else slice(-side, None)
    patch[:, columns] *= 0.6
    return patch


def door(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """Two leaves with panels and knobs under a fanlight, or one where the door is narrow."""
    patch = flat(h, w, brush.look.door, down(h, 1.05, 0.9))
    grain = smooth_noise(brush.rng, h, w, 0.004 * brush.px, stretch=20)
    patch *= 1 + 0.05 * grain[..., None]
    edge, light = brush.length(0.007), round(0.26 * h)
    middle = w // 2
    for x0, x1 in ((edge, middle - edge // 3), (middle + edge // 3, w - edge)):
        patch[edge:light, x0:x1] = reflecting_glass(brush, light - edge, x1 - x0)
        for top, bottom in ((0.31, 0.52), (0.56, 0.68), (0.72, 0.94)):
            inner = patch[round(top * h) : round(bottom * h), x0 + edge // 2 : x1 - edge // 2]
            bevel(inner, brush.length(0.003), sunken=True)
    patch[light:, middle - 1 : middle + 1] *= 0.5
    knob = brush.length(0.003)
    y = round(0.62 * h)
    for x in (middle - 3 * knob, middle + 2 * knob):
        patch[y - knob : y + knob, x - knob // 2 : x + knob] = (0.88, 0.72, 0.35)
    rim = ~shapes.mask(part.shape, h, w, brush.length(0.005))
    return reveal(brush, blend(patch, flat(h, w, brush.look.door, 0.75), rim))


def shop(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A sign, a striped awning, and panes between posts above a low wall."""
    look, post = brush.look, brush.length(0.008)
    sign, awning, base = round(0.20 * h), round(0.40 * h), round(0.87 * h)
    patch = flat(h, w, look.awning, 0.9)
    count = max(1, round(w / brush.length(0.13)))
    edges = np.linspace(post, w, count + 1).astype(int)
    for x0, x1 in zip(edges[:-1], edges[1:] - post, strict=True):
        patch[awning:base, x0:x1] = display(brush, base - awning, x1 - x0)
        bevel(patch[base + post // 2 : h - post // 2, x0:x1], brush.length(0.003), sunken=True)
    stripes = (np.arange(w) // brush.length(0.016)) % 2
    cloth = blend(flat(awning - sign, w, look.awning, 1.25), (0.95, 0.92, 0.86), stripes[None])
    patch[sign:awning] = cloth * down(awning - sign, 1.05, 0.86)[..., None]
    patch[awning : awning + brush.length(0.02)] *= 0.45
    lettering(brush, bevel(patch[:sign], brush.length(0.003)))
    return patch


def display(brush: Brush, h: int, w: int) -> np.ndarray:
    """A shop window: dim inside, warm lamps above, goods on a shelf below."""
    patch = blend(reflecting_glass(brush, h, w), (0.95, 0.74, 0.42), down(h, 0.42, 0.05))
    goods = np.clip(fractal_noise(brush.rng, 1, w, 0.015 * brush.px, 2)[0] * 0.14 + 0.76, 0.6, 0.95)
    y = down(h, 0, 1)
    hue = tinted((0.75, 0.45, 0.3), 0.7 + 0.3 * smooth_noise(brush.rng, h, w, 0.015 * brush.px))
    return blend(patch, hue, 0.55 * (y > goods[None]))


def lettering(brush: Brush, sign: np.ndarray) -> None:
    """Strokes that read as gilt letters from across the street, in place."""
    h, w = sign.shape[:2]
    step = brush.length(0.014)
    for x in range(round(0.3 * w), round(0.7 * w) - step, step):
        tall = brush.rng.random() < 0.4
        sign[round((0.28 if tall else 0.4) * h) : round(0.72 * h), x : x + step // 2] = (
            0.93, 0.82, 0.55,
        )  # fmt: skip


def molding(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A frame of the trim's stone, its outer edge in relief."""
    patch = flat(h, w, brush.look.trim, down(h, 1.0, 0.95))
    groove = shapes.mask(part.shape, h, w, brush.length(0.003))
    groove &= ~shapes.mask(part.shape, h, w, brush.length(0.005))
    return patch * (1 - 0.22 * groove[..., None])


def cornice(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """Steps of stone, bright above and dark below; a thick one has dentils."""
    profile = np.interp(np.linspace(0, 1, h), [0, 0.2, 0.25, 0.6, 0.65, 1],
                        [1.04, 1.0, 0.86, 0.98, 0.78, 0.66])  # fmt: skip
    patch = flat(h, w, brush.look.trim, profile[:, None])
    if h >= brush.length(0.025) and part.shape == "rect":
        tooth = brush.length(0.008)
        gaps = (np.arange(w) // tooth) % 2 == 1
        patch[round(0.66 * h) :, gaps] *= 0.72
    return patch


def sill(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A slab with a lit top."""
    return flat(h, w, brush.look.trim, down(h, 1.04, 0.74))


def pillar(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A fluted shaft between a base and a capital."""
    x = np.linspace(-1, 1, w, dtype=np.float32)[None]
    shaft = 0.97 - 0.10 * np.abs(x) + 0.06 * np.cos(x * 14)
    patch = flat(h, w, brush.look.trim, shaft)
    end = brush.length(0.022)
    for rows in (slice(0, end), slice(-end, None)):
        patch[rows] = flat(end, w, brush.look.trim, down(end, 1.03, 0.8))
    return patch


def blind(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A louvred leaf: slats in a frame."""
    pitch = max(3.0, 0.0085 * brush.px)
    slats = 0.72 + 0.42 * (np.arange(h, dtype=np.float32) % pitch / pitch)[:, None]
    patch = flat(h, w, brush.look.blind, slats)
    edge = brush.length(0.005)
    middle = slice(h // 2 - edge // 2, h // 2 + edge - edge // 2)
    for rows, cols in ((slice(0, edge), slice(None)), (slice(-edge, None), slice(None)),
                       (slice(None), slice(0, edge)), (slice(None), slice(-edge, None)),
                       (middle, slice(None))):  # fmt: skip
        patch[rows, cols] = np.multiply(brush.look.blind, 1.12)
    return patch


def balcony(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """A slab with a railing to see through: of iron bars, or of glass."""
    slab, rail = brush.length(0.014), brush.length(0.006)
    paint = {"iron": iron_railing, "glass": glass_railing}[brush.look.railing]
    patch = paint(brush, h, w)
    patch[:rail, :, :3] = patch[0, 0, :3]
    patch[:rail, :, 3] = 1
    patch[-slab:, :, :3] = flat(slab, w, brush.look.trim, down(slab, 1.05, 0.7))
    patch[-slab:, :, 3] = 1
    return patch


def iron_railing(brush: Brush, h: int, w: int) -> np.ndarray:
    """Black balusters, their lower third a band of ornament."""
    x, y = np.arange(w)[None], np.linspace(0, 1, h)[:, None]
    pitch, bar = brush.length(0.0115), brush.length(0.004)
    bars = np.broadcast_to((x % pitch < bar), (h, w)).astype(np.float32)
    ring = np.abs(np.sin(np.pi * x / pitch)) > 0.55
    ornament = (y > 0.22) & (y < 0.42) & ring
    alpha = np.maximum(np.maximum(bars, 0.9 * ornament), 0.30)  # the bars too fine to be drawn
    return np.concatenate([flat(h, w, (0.10, 0.10, 0.12)), alpha[..., None]], axis=2)


def glass_railing(brush: Brush, h: int, w: int) -> np.ndarray:
    """Tinted panes between posts."""
    pane = flat(h, w, (0.50, 0.66, 0.70), down(h, 1.1, 0.85))
    posts = np.arange(w)[None] % brush.length(0.05) < brush.length(0.004)
    pane = blend(pane, (0.35, 0.37, 0.40), posts)
    alpha = np.where(np.broadcast_to(posts, (h, w)), 1.0, 0.62).astype(np.float32)
    return np.concatenate([pane, alpha[..., None]], axis=2)


def plant(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """Leaves in light and shade; in a window box, with red flowers."""
    leaves = fractal_noise(brush.rng, h, w, 0.012 * brush.px, 2)
    patch = tinted((0.27, 0.47, 0.20), down(h, 1.2, 0.75) * (1 + 0.45 * leaves))
    if part.shape == "round":
        return patch
    flowers = smooth_noise(brush.rng, h, w, max(0.006 * brush.px, 1.5)) > 0.32
    patch = blend(patch, (0.86, 0.20, 0.22), 0.95 * (flowers & (down(h, 0, 1) < 0.55)))
    box = brush.length(0.010)
    patch[-box:] = flat(box, w, (0.55, 0.36, 0.24), down(box, 1.1, 0.8))
    return patch


def street(brush: Brush, h: int, w: int, part: Part) -> np.ndarray:
    """Paving slabs, a kerb, and asphalt."""
    kerb, width = round(0.46 * h), brush.length(0.009)
    patch = flat(h, w, (0.38, 0.38, 0.40), 1 + 0.10 * fractal_noise(brush.rng, h, w, 6, 2))
    joints = (np.arange(w) % brush.length(0.07) < 2)[None]
    slabs = 1 + 0.05 * fractal_noise(brush.rng, kerb, w, 0.04 * brush.px) - 0.14 * joints
    patch[:kerb] = flat(kerb, w, (0.70, 0.68, 0.65), slabs * down(kerb, 0.84, 1.04))
    patch[kerb : kerb + width] = flat(width, w, (0.80, 0.79, 0.77), down(width, 1.1, 0.6))
    return patch


PAINTERS = {
    "sky": sky,
    "background": background,
    "wall": wall,
    "window": window,
    "door": door,
    "cornice": cornice,
    "sill": sill,
    "balcony": balcony,
    "blind": blind,
    "molding": molding,
    "pillar": pillar,
    "shop": shop,
    "roof": roof,
    "chimney": chimney,
    "plant": plant,
    "street": street,
}
