"""Which colours and materials a building has; RGB in [0, 1]."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Look:
    """Materials (keys of tables in painters.py), colours, and the light of the day."""

    wall_texture: str
    ground_texture: str
    wall: RGB
    ground: RGB
    trim: RGB
    frame: RGB
    door: RGB
    blind: RGB
    roof_texture: str
    roof: RGB
    railing: str
    glazing: str
    awning: RGB
    light: float = 0.5  # how far a shadow falls to the right of what casts it, per unit downwards
    warmth: float = 0.0  # colour of the daylight, -1 (cool) to 1 (warm)


LOOKS = {
    "brick": Look(
        wall_texture="brick", ground_texture="brick",
        wall=(0.76, 0.46, 0.35), ground=(0.76, 0.46, 0.35), trim=(0.93, 0.91, 0.86),
        frame=(0.96, 0.95, 0.92), door=(0.10, 0.30, 0.22), blind=(0.2, 0.3, 0.3),
        roof_texture="slate", roof=(0.40, 0.42, 0.47), railing="iron", glazing="sash",
        awning=(0.15, 0.35, 0.28),
    ),
    "stone": Look(
        wall_texture="ashlar", ground_texture="rustic",
        wall=(0.88, 0.82, 0.70), ground=(0.82, 0.76, 0.64), trim=(0.95, 0.91, 0.82),
        frame=(0.93, 0.91, 0.87), door=(0.17, 0.25, 0.42), blind=(0.6, 0.6, 0.6),
        roof_texture="slate", roof=(0.42, 0.47, 0.55), railing="iron", glazing="casement",
        awning=(0.55, 0.13, 0.15),
    ),
    "ochre": Look(
        wall_texture="plaster", ground_texture="plaster",
        wall=(0.95, 0.79, 0.52), ground=(0.88, 0.70, 0.46), trim=(0.96, 0.93, 0.86),
        frame=(0.90, 0.86, 0.78), door=(0.46, 0.26, 0.14), blind=(0.24, 0.45, 0.36),
        roof_texture="tiles", roof=(0.78, 0.41, 0.27), railing="iron", glazing="casement",
        awning=(0.80, 0.33, 0.20),
    ),
    "rose": Look(
        wall_texture="plaster", ground_texture="rustic",
        wall=(0.88, 0.62, 0.54), ground=(0.80, 0.72, 0.64), trim=(0.96, 0.93, 0.87),
        frame=(0.95, 0.93, 0.89), door=(0.20, 0.36, 0.38), blind=(0.5, 0.5, 0.5),
        roof_texture="tiles", roof=(0.62, 0.33, 0.26), railing="iron", glazing="casement",
        awning=(0.3, 0.3, 0.3),
    ),
    "stucco": Look(
        wall_texture="plaster", ground_texture="rustic",
        wall=(0.90, 0.89, 0.84), ground=(0.87, 0.86, 0.81), trim=(0.97, 0.96, 0.93),
        frame=(0.96, 0.96, 0.94), door=(0.09, 0.10, 0.12), blind=(0.5, 0.5, 0.5),
        roof_texture="slate", roof=(0.4, 0.42, 0.45), railing="iron", glazing="sash",
        awning=(0.3, 0.3, 0.3),
    ),
    "modern": Look(
        wall_texture="panels", ground_texture="panels",
        wall=(0.84, 0.83, 0.80), ground=(0.62, 0.58, 0.55), trim=(0.72, 0.74, 0.75),
        frame=(0.25, 0.27, 0.30), door=(0.68, 0.45, 0.24), blind=(0.6, 0.6, 0.6),
        roof_texture="panels", roof=(0.56, 0.58, 0.61), railing="glass", glazing="wide",
        awning=(0.18, 0.22, 0.30),
    ),
}  # fmt: skip


def random_look(family: str, rng: Generator) -> Look:
    """The family's look with colours moved a little, on a day of its own.

    The steps are small on purpose: a label map does not tell them, and what it does not tell, a
    network can only average.
    """
    look = LOOKS[family]
    shift = rng.normal(0, 0.025) + rng.normal(0, 0.02) * np.array([1, 0.1, -1])
    return replace(
        look,
        wall=jitter(look.wall, shift),
        ground=jitter(look.ground, shift),
        roof=jitter(look.roof, shift),
        door=jitter(look.door, rng.normal(0, 0.03, 3)),
        blind=jitter(look.blind, rng.normal(0, 0.03, 3)),
        awning=jitter(look.awning, rng.normal(0, 0.03, 3)),
        light=rng.uniform(-0.8, 0.8),
        warmth=rng.uniform(-1, 1),
    )


def jitter(color: RGB, shift: np.ndarray) -> RGB:
    """The color moved by `shift`, inside [0.05, 0.97]."""
    return tuple(float(value) for value in np.clip(np.add(color, shift), 0.05, 0.97))
