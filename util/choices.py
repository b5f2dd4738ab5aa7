"""Looking a name up in a table of choices, with one error message for all tables."""

from collections.abc import Mapping
from typing import TypeVar

Row = TypeVar("Row")


def choose(table: Mapping[str, Row], name: str, what: str) -> Row:
    """The row called `name` in `table`.

    Args:
        table: name -> row.
        name: what the caller asked for.
        what: what the table lists, for the message, such as "norm".

    Raises:
        ValueError: no such row; the message names `what`, the value and the choices.
    """
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; choose one of: {', '.join(table)}")
    return table[name]
