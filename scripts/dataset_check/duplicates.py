"""The same picture more than once: in training and in testing, that makes results too good."""

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from scripts.dataset_check.findings import Finding, shown


class Sample(NamedTuple):
    """What is compared: a picture, or a pair."""

    path: str
    phase: str
    digests: tuple[bytes, ...]  # of the picture; of A and of B


def duplicates(samples: Iterable[Sample], root: str, phases: list[str]) -> Iterator[Finding]:
    """Samples that are equal in all pixels.

    Args:
        samples: all that could be read.
        root: the folder of the dataset, for naming the other one.
        phases: all phases; the copy in the first of them is the one to keep.
    """
    samples = sorted(samples, key=lambda s: (phases.index(s.phase), s.path))
    first: dict[tuple[bytes, ...], Sample] = {}
    for sample in samples:
        other = first.setdefault(sample.digests, sample)
        what = "picture" if len(sample.digests) == 1 else "pair"
        if other.phase != sample.phase:
            problem = f"the same {what} is in {other.phase}"
            remedy = f"remove it, or {shown(other.path, root)}"
            yield Finding(problem, sample.path, remedy)
        elif other is not sample:
            remedy = f"none, or remove it: it is {shown(other.path, root)}"
            yield Finding(f"the same {what} twice", sample.path, remedy, note=True)
    yield from same_sides(samples, root)


def same_sides(samples: list[Sample], root: str) -> Iterator[Finding]:
    """Pairs of which one side only is in another phase too, or that have two equal sides.

    Notes: a label map may well come twice, an empty one for example.
    """
    first: dict[tuple[int, bytes], Sample] = {}
    for sample in samples:
        if len(sample.digests) == 1:
            continue
        if len(set(sample.digests)) == 1:
            remedy = "check whether B is what is to be made of A"
            yield Finding("A and B are the same picture", sample.path, remedy, note=True)
        for side, digest in enumerate(sample.digests):
            other = first.setdefault((side, digest), sample)
            if other.phase != sample.phase and other.digests != sample.digests:
                problem = f"{'AB'[side]} alone is in {other.phase} as well"
                remedy = f"see {os.path.relpath(other.path, root)}, with another partner"
                yield Finding(problem, sample.path, remedy, note=True)
