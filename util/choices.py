"""Looking a name up in a table of choices, with one error message for all tables."""

from collections.abc import Mapping
from typing import TypeVar

Row = TypeVar("Row")


def choose(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row called `name`; ValueError with the choices if `what` ("norm") has no such row."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose one of: {', '.join(table)}")
    return table[name]
