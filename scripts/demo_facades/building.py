"""What stands where: a random building as a list of parts, back to front.

Coordinates are shares of a square scene: x to the right, y down, (0, 0) top left. What is random
here is seen in the label map, so a network can learn what follows from it: each family of buildings
has its own roof and ornaments, and its own materials.
"""

from collections.abc import Iterator, Set

from numpy.random import Generator

from .tables import ASSEMBLIES, FAMILIES, Family, Part

Span = tuple[float, float]


def random_building(rng: Generator) -> tuple[str, list[Part]]:
    """Family and parts of a building whose every choice comes from `rng`."""
    name = str(rng.choice(list(FAMILIES)))
    family = FAMILIES[name]
    left, right = rng.uniform(0.07, 0.17), 1 - rng.uniform(0.07, 0.17)
    street, eaves = rng.uniform(0.87, 0.90), 0.11 + rng.uniform(family.low, family.high)
    edge = 0.04 if "pillars" in family.has else 0.02
    bays = divide(left + edge, right - edge, [1] * int(rng.integers(3, 6 - (name == "modern"))))
    upper = int(rng.integers(family.fewest, family.most, endpoint=True))
    floors = divide(eaves, street, [1] * upper + [1.2])  # from above; the last is the ground floor
    ground, has = floors[-1][0], some_of(family, rng, "pillars", "course")
    has |= [{"left"}, {"right"}, {"left", "right"}][int(rng.integers(3))]  # chimneys
    parts = [Part("sky", 0, 0, 1, 0.52)]
    parts += [Part("background", 0, rng.uniform(0.2, 0.5), left, street)]
    parts += [Part("background", right, rng.uniform(0.2, 0.5), 1, street)]
    parts += assemble("wall", family, (left, right), (eaves, ground), has)
    parts += assemble("ground", family, (left, right), (ground, street), has)
    for top, _ in floors[1:] if "course" in has else floors[-1:]:
        parts += [Part("cornice", left, top - 0.007, right, top + 0.007)]
    parts += upper_floors(floors, bays, family, rng)
    parts += assemble(family.roof, family, (left, right), (0.11, eaves), has)
    share = family.has.get("dormers", 0)
    for x0, x1 in bays[int(rng.integers(2)) :: 2] if share else ():
        span = ((x0 + x1 - share * (x1 - x0)) / 2, (x0 + x1 + share * (x1 - x0)) / 2)
        parts += assemble("dormer", family, span, (0.142, eaves - 0.014), has)
    parts += [Part("street", 0, street, 1, 1), *ground_floor(floors[-1], bays, family, rng)]
    return name, parts


def divide(start: float, stop: float, weights: list[float]) -> list[Span]:
    """Neighbouring spans from start to stop, as long as the weights say."""
    shares = [sum(weights[:i]) / sum(weights) for i in range(len(weights) + 1)]
    ends = [start + (stop - start) * share for share in shares]
    return list(zip(ends[:-1], ends[1:], strict=True))


def some_of(family: Family, rng: Generator, *names: str) -> set[str]:
    """Those of the names that a building, or one of its floors, has."""
    return {name for name in names if rng.random() < family.has.get(name, 0)}


def assemble(name: str, family: Family, x: Span, y: Span, has: Set[str]) -> Iterator[Part]:
    """The parts of one of ASSEMBLIES that spans x and y."""
    width, height = x[1] - x[0], y[1] - y[0]
    for needs, (kind, x0, y0, x1, y1, shape, layers) in ASSEMBLIES[name]:
        if needs == "-" or needs in has:
            box = (x[0] + x0 * width, y[0] + y0 * height, x[0] + x1 * width, y[0] + y1 * height)
            shape = ("arch" if "arch" in has else "rect") if shape == "=" else shape
            yield Part(kind, *box, shape, family._asdict().get(layers, layers))


def window(bay: Span, floor: Span, family: Family, has: Set[str]) -> Iterator[Part]:
    """A window in the middle of its bay, with whatever it has around it."""
    height = family.height * (floor[1] - floor[0])
    width = min(family.breadth * (bay[1] - bay[0]), family.aspect * height)
    x, y = (sum(bay) - width) / 2, floor[0] + 0.55 * (floor[1] - floor[0] - height)
    return assemble("window", family, (x, x + width), (y, y + height), has)


def upper_floors(
    floors: list[Span], bays: list[Span], family: Family, rng: Generator
) -> Iterator[Part]:
    """Rows of equal windows, some with balconies, at all of them or in the middle."""
    always = some_of(family, rng, "arch", "molding", "blinds")
    for floor in floors[:-1]:
        has = always | some_of(family, rng, "hood", "balcony", "plants")
        has -= {"arch"} if floor != floors[-2] else {"hood"} if "arch" in has else set()
        only_middle = {"balcony"} if rng.random() < 0.5 else set()
        for index, bay in enumerate(bays):
            middle = index == len(bays) // 2
            yield from window(bay, floor, family, has if middle else has - only_middle)


def ground_floor(floor: Span, bays: list[Span], family: Family, rng: Generator) -> Iterator[Part]:
    """A door in one bay; a shop, or windows, in the others."""
    top, street = floor
    door, shop = int(rng.integers(len(bays))), some_of(family, rng, "shop")
    for run in (bays[:door], bays[door + 1 :]):
        if shop and run:
            yield Part("shop", run[0][0] + 0.006, top + 0.028, run[-1][1] - 0.006, street)
        for bay in [] if shop else run:
            yield from window(bay, floor, family, family.has.keys() & {"molding"})
    middle, half = sum(bays[door]) / 2, min(0.31 * (bays[door][1] - bays[door][0]), 0.0525)
    has = family.has.keys() & {"bushes"} | {"arch" if "archway" in family.has else "square"}
    y = (top + 0.24 * (street - top), street)
    yield from assemble("door", family, (middle - half, middle + half), y, has)
