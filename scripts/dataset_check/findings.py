"""What was found wrong, and the table that shows it."""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from util.errors import one_line

HEADER = ("PROBLEM", "FILE", "WHAT TO DO")
WIDEST = 60  # a column is padded up to here; a longer cell is printed in full and sticks out


class Finding(NamedTuple):
    """A row: what is wrong, with which file or folder, and the remedy.

    A note is worth knowing, but training does with it what its owner would expect.
    """

    problem: str
    path: str
    remedy: str
    note: bool = False


def table(findings: Iterable[Finding], root: str) -> list[str]:
    """The lines of the table: problems by file, then notes, those alike in one row."""
    findings = list(findings)
    problems = sorted((f for f in findings if not f.note), key=lambda f: (f.path, f.problem))
    notes = together([f for f in findings if f.note], root)
    rows = [(f.problem, shown(f.path, root), f.remedy) for f in problems]
    rows += [(f"note: {f.problem}", f.path, f.remedy) for f in notes]
    return list(in_columns([HEADER, *(tuple(map(one_line, row)) for row in rows)]))


def together(notes: list[Finding], root: str) -> list[Finding]:
    """One note for all files of a folder with the same problem and the same remedy."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for note in notes:
        key = (os.path.dirname(note.path), note.problem, note.remedy)
        groups.setdefault(key, []).append(note.path)
    rows = []
    for (_, problem, remedy), paths in sorted(groups.items()):
        where = shown(min(paths), root) + (f" and {len(paths) - 1} more" if paths[1:] else "")
        rows.append(Finding(problem, where, remedy, note=True))
    return rows


def shown(path: str, root: str) -> str:
    """The path below the dataset's folder, which is what its owner calls the file."""
    return os.path.relpath(path, root)


def in_columns(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Pad all columns but the last."""
    sizes = [min(WIDEST, max(map(width, column))) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell + " " * (size - width(cell)) for cell, size in zip(row, sizes, strict=True)]
        yield "  ".join(cells).rstrip()


def width(text: str) -> int:
    """The columns that a terminal gives a text: two for East Asian letters, none for accents."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))
