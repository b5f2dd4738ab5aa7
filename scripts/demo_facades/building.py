"""What stands where: a random building as a list of parts.

Coordinates are fractions of a square scene: x to the right, y down, (0, 0) top left. What is
random here is seen in the label map, so a network can learn what follows from it: each family
of buildings has its own roof and ornaments, and its own materials (see looks.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from numpy.random import Generator

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Part:
    """One thing of one class; `shape` is a key of scene.SHAPES, `variant` a hint to its painter."""

    kind: str
    box: Box
    shape: str = "rect"
    variant: str = ""


@dataclass(frozen=True)
class Family:
    """What the buildings of one kind have in common; most are probabilities."""

    roof: str
    roof_height: tuple[float, float]
    floors: tuple[int, int]
    window: tuple[float, float]  # width and height, as a share of the bay and of the floor
    arched: float = 0.0
    molding: float = 0.0
    hood: float = 0.0
    blinds: float = 0.0
    balcony: float = 0.0
    course: float = 0.0
    pillars: float = 0.0
    shop: float = 0.0
    widest: float = 0.78  # a window's width over its height, at most


FAMILIES = {
    "brick": Family("gable", (0.13, 0.19), (2, 3), (0.50, 0.68), hood=0.9, shop=0.3),
    "stone": Family(
        "mansard", (0.14, 0.18), (2, 3), (0.46, 0.72),
        arched=0.3, molding=1.0, hood=0.6, balcony=0.6, course=1.0, pillars=0.6, shop=0.3,
    ),
    "ochre": Family(
        "hip", (0.08, 0.12), (2, 3), (0.40, 0.66), blinds=1.0, balcony=0.3, course=0.2, shop=0.4
    ),
    "rose": Family(
        "hip", (0.10, 0.15), (2, 3), (0.46, 0.66), molding=1.0, hood=0.5, balcony=0.3, course=1.0
    ),
    "stucco": Family(
        "parapet", (0.04, 0.08), (2, 3), (0.44, 0.70),
        hood=0.8, balcony=0.5, course=0.5, pillars=1.0, arched=0.4,
    ),
    "modern": Family(
        "flat", (0.04, 0.08), (2, 4), (0.70, 0.62), balcony=0.5, shop=0.8, widest=9.0
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Building:
    """A family and its parts, back to front: a later part hides what is behind it."""

    family: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Plan:
    """The grid of one facade: floors from the top, bays from the left; the last is the ground."""

    left: float
    right: float
    eaves: float
    street: float
    floors: tuple[tuple[float, float], ...]
    bays: tuple[tuple[float, float], ...]

    @property
    def ground(self) -> tuple[float, float]:
        """Top and bottom of the ground floor."""
        return self.floors[-1]


def random_building(rng: Generator) -> Building:
    """A building whose every choice comes from `rng`."""
    name = str(rng.choice(list(FAMILIES)))
    family = FAMILIES[name]
    plan = random_plan(family, rng)
    parts = [Part("sky", (0, 0, 1, 0.52)), *neighbours(plan, rng)]
    parts += [Part("wall", (plan.left, plan.eaves, plan.right, plan.ground[0]))]
    parts += [Part("wall", (plan.left, plan.ground[0], plan.right, plan.street), variant="ground")]
    parts += [*pillars(plan, family, rng), *courses(plan, family, rng)]
    parts += [*upper_floors(plan, family, rng), *ROOFS[family.roof](plan, family, rng)]
    parts += [Part("street", (0, plan.street, 1, 1)), *ground_floor(plan, family, rng)]
    return Building(name, tuple(parts))


def random_plan(family: Family, rng: Generator) -> Plan:
    """Draw the outline, then divide it into floors and bays of sensible proportions."""
    left, right = rng.uniform(0.07, 0.17), 1 - rng.uniform(0.07, 0.17)
    street = rng.uniform(0.87, 0.90)
    eaves = 0.11 + rng.uniform(*family.roof_height)
    upper = int(rng.integers(family.floors[0], family.floors[1], endpoint=True))
    height = (street - eaves) / (upper + 1.2)  # the ground floor is 1.2 times as high
    tops = [eaves + height * i for i in range(upper + 1)] + [street]
    count = int(rng.choice([3, 4] if family.roof == "flat" else [3, 4, 4, 5]))
    edge = 0.02 + 0.02 * family.pillars
    width = (right - left - 2 * edge) / count
    sides = [left + edge + width * i for i in range(count + 1)]
    floors, bays = zip(tops[:-1], tops[1:], strict=True), zip(sides[:-1], sides[1:], strict=True)
    return Plan(left, right, eaves, street, tuple(floors), tuple(bays))


def neighbours(plan: Plan, rng: Generator) -> Iterator[Part]:
    """The houses left and right of ours, of some height."""
    for x0, x1 in ((0, plan.left), (plan.right, 1)):
        yield Part("background", (x0, rng.uniform(0.2, 0.5), x1, plan.street))


def pillars(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """Pilasters at both ends of the facade, or none."""
    if rng.random() < family.pillars:
        for x0 in (plan.left + 0.005, plan.right - 0.04):
            yield Part("pillar", (x0, plan.eaves + 0.01, x0 + 0.035, plan.ground[0]))


def courses(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """A string course above the ground floor, and above each floor where the family has them."""
    every = rng.random() < family.course
    for top, _ in plan.floors[1:] if every else plan.floors[-1:]:
        yield Part("cornice", (plan.left, top - 0.007, plan.right, top + 0.007))


def upper_floors(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """Rows of equal windows; what one has, its floor has."""
    has = {name: rng.random() < getattr(family, name) for name in ("arched", "molding", "blinds")}
    for level, floor in enumerate(plan.floors[:-1]):
        hood = rng.random() < family.hood
        balcony = rng.random() < family.balcony
        plants = family.roof == "hip" and rng.random() < 0.4
        only_middle = bool(rng.random() < 0.5)
        for index, bay in enumerate(plan.bays):
            middle = index == len(plan.bays) // 2
            yield from window(
                window_box(bay, floor, family),
                shape="arch" if has["arched"] and level == len(plan.floors) - 2 else "rect",
                molding=has["molding"],
                hood=hood,
                blinds=has["blinds"],
                balcony=balcony and (middle or not only_middle),
                plants=plants,
            )


def window_box(bay: tuple[float, float], floor: tuple[float, float], family: Family) -> Box:
    """Where the window of a bay lies: centred, a little below the middle of the floor's height."""
    width, height = family.window[0] * (bay[1] - bay[0]), family.window[1] * (floor[1] - floor[0])
    width = min(width, family.widest * height)
    centre = sum(bay) / 2
    top = floor[0] + 0.55 * (floor[1] - floor[0] - height)
    return (centre - width / 2, top, centre + width / 2, top + height)


def window(box: Box, shape: str = "rect", **has: bool) -> Iterator[Part]:
    """A window with whatever it has around it."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    if has["molding"]:
        yield Part("molding", (x0 - 0.011, y0 - 0.011, x1 + 0.011, y1), shape)
    yield Part("window", box, shape)
    if has["hood"] and shape == "rect":
        yield Part("cornice", (x0 - 0.017, y0 - 0.022, x1 + 0.017, y0 - 0.007))
    if has["blinds"]:
        yield Part("blind", (x0 - 0.48 * width, y0 - 0.004, x0 - 0.02 * width, y1 + 0.004))
        yield Part("blind", (x1 + 0.02 * width, y0 - 0.004, x1 + 0.48 * width, y1 + 0.004))
    if has["balcony"]:
        yield Part("balcony", (x0 - 0.02, y1 - 0.42 * height, x1 + 0.02, y1 + 0.014))
    else:
        yield Part("sill", (x0 - 0.013, y1, x1 + 0.013, y1 + 0.012))
        if has["plants"]:
            yield Part("plant", (x0, y1 - 0.03, x1, y1 + 0.002))


def ground_floor(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """A door in one bay; a shop, or windows, in the others."""
    door = int(rng.integers(len(plan.bays)))
    if rng.random() < family.shop:
        for run in (plan.bays[:door], plan.bays[door + 1 :]):
            if run:
                top = plan.ground[0] + 0.028
                yield Part("shop", (run[0][0] + 0.006, top, run[-1][1] - 0.006, plan.street))
    else:
        has = dict.fromkeys(("hood", "blinds", "balcony", "plants"), False)
        for bay in plan.bays[:door] + plan.bays[door + 1 :]:
            box = window_box(bay, plan.ground, family)
            yield from window(box, molding=family.molding > 0, **has)
    yield from entrance(plan.bays[door], plan, family)


def entrance(bay: tuple[float, float], plan: Plan, family: Family) -> Iterator[Part]:
    """A door in its frame, a hood or an arch above it, and for some a plant on each side."""
    width = min(0.62 * (bay[1] - bay[0]), 0.105)
    centre, top = sum(bay) / 2, plan.ground[0] + 0.24 * (plan.street - plan.ground[0])
    x0, x1 = centre - width / 2, centre + width / 2
    shape = "arch" if family.roof in ("mansard", "hip") else "rect"
    yield Part("molding", (x0 - 0.014, top - 0.014, x1 + 0.014, plan.street), shape)
    yield Part("door", (x0, top, x1, plan.street + 0.003), shape)
    if shape == "rect":
        yield Part("cornice", (x0 - 0.026, top - 0.03, x1 + 0.026, top - 0.012))
    if family.roof in ("hip", "gable"):
        for x in (x0 - 0.043, x1 + 0.013):
            yield Part("plant", (x, plan.street - 0.06, x + 0.03, plan.street + 0.006), "round")


def chimneys(plan: Plan, top: float, rng: Generator) -> Iterator[Part]:
    """One or two, well inside the outline of the roof."""
    for share in rng.permutation([0.27, 0.73])[: rng.integers(1, 2, endpoint=True)]:
        x = plan.left + share * (plan.right - plan.left)
        yield Part("chimney", (x - 0.025, top - 0.035, x + 0.025, plan.eaves - 0.03))


def crown(plan: Plan, height: float, over: float) -> Part:
    """The cornice that ends the wall."""
    return Part("cornice", (plan.left - over, plan.eaves - height / 2, plan.right + over,
                            plan.eaves + height / 2))  # fmt: skip


def gable_roof(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """A steep tiled roof, seen along its slope."""
    top = 0.11
    yield from chimneys(plan, top, rng)
    yield Part("roof", (plan.left - 0.025, top, plan.right + 0.025, plan.eaves), "steep")
    yield from dormers(plan, top + 0.035, 0.42, rng)
    yield crown(plan, 0.022, 0.015)


def mansard_roof(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """A roof nearly as steep as a wall, with a dormer above every other bay."""
    top = 0.11
    yield from chimneys(plan, top, rng)
    yield Part("roof", (plan.left - 0.005, top, plan.right + 0.005, plan.eaves), "mansard")
    yield from dormers(plan, top + 0.03, 0.5, rng)
    yield crown(plan, 0.032, 0.02)


def hip_roof(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """A low roof whose eaves stand out over the wall."""
    top = 0.11
    yield from chimneys(plan, top, rng)
    yield Part("roof", (plan.left - 0.04, top, plan.right + 0.04, plan.eaves + 0.008), "hip")


def flat_roof(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """A parapet, and a stair-head behind it."""
    x = plan.left + rng.uniform(0.2, 0.6) * (plan.right - plan.left)
    yield Part("roof", (x, plan.eaves - 0.07, x + 0.14, plan.eaves))
    yield crown(plan, 0.022, 0.008)


def parapet_roof(plan: Plan, family: Family, rng: Generator) -> Iterator[Part]:
    """A low wall above the main cornice hides the roof; only chimneys look over it."""
    top = plan.eaves - rng.uniform(0.04, 0.06)
    yield from chimneys(plan, top, rng)
    yield Part("wall", (plan.left, top, plan.right, plan.eaves))
    yield Part("cornice", (plan.left - 0.008, top - 0.007, plan.right + 0.008, top + 0.007))
    yield crown(plan, 0.03, 0.02)


def dormers(plan: Plan, top: float, share: float, rng: Generator) -> Iterator[Part]:
    """Small gabled windows in the roof, above the inner bays."""
    start = int(rng.integers(2))
    for bay in plan.bays[start::2]:
        half, centre = share * (bay[1] - bay[0]) / 2, sum(bay) / 2
        bottom = plan.eaves - 0.012
        neck = top + 0.3 * (bottom - top)
        yield Part("molding", (centre - half, neck, centre + half, bottom))
        yield Part("window", (centre - 0.68 * half, neck + 0.008, centre + 0.68 * half, bottom))
        yield Part("cornice", (centre - 1.2 * half, top, centre + 1.2 * half, neck), "gable")


ROOFS = {
    "gable": gable_roof,
    "mansard": mansard_roof,
    "hip": hip_roof,
    "parapet": parapet_roof,
    "flat": flat_roof,
}
