"""What to do when training waits for data."""

from collections.abc import Iterator
from contextlib import suppress

from data import cache
from data.loader import Loader, share_of_cores
from data.memory import size_text
from util.errors import UserError

WORTH_MENTIONING = 0.1  # of the time


def waiting_remedy(share_waiting: float, loader: Loader) -> str | None:
    """A sentence to print at the end of an epoch in which training waited for data.

    Args:
        share_waiting: the part of the time that it waited, 0 to 1.
        loader: what it waited for.

    Returns:
        What would help; None if it hardly waited.
    """
    if share_waiting < WORTH_MENTIONING:
        return None
    return f"training waited for data {share_waiting:.0%} of the time; {remedy(loader)}"


def remedy(loader: Loader) -> str:
    """What would make this loader faster, the best first."""
    remedies = list(remedies_for(loader))
    if remedies:
        return ", or ".join(remedies)
    if cache.is_filled(loader.dataset):
        return "all processor cores load already, from memory: only more of them would help"
    return (
        "all processor cores load already: files that are no larger than --load_size needs them "
        "are read faster"
    )


def remedies_for(loader: Loader) -> Iterator[str]:
    """The options that are left to try."""
    if not cache.is_filled(loader.dataset):
        with suppress(UserError):  # a file that is gone by now
            size = cache.size_if_it_fits(loader.dataset)
            if size:
                yield f"--cache ram keeps the resized images in memory ({size_text(size)})"
    share = share_of_cores()
    if loader.num_threads < share:
        yield f"--num_threads {share} loads in more processes"
