"""How long training waits for data."""

import time


class Stopwatch:
    """Seconds in total, those of them spent waiting for data, and the images of that time."""

    def __init__(self, total: float = 0.0, waited: float = 0.0, images: int = 0):
        self.total, self.waited, self.images = total, waited, images
        self._last = time.perf_counter()

    def add_time(self, waiting: bool) -> None:
        """Add the time since the last call; all of it was spent waiting for data, or none."""
        last, self._last = self._last, time.perf_counter()
        self.total += self._last - last
        self.waited += waiting * (self._last - last)

    def since(self, start: "Stopwatch") -> "Stopwatch":
        """What came after `start`, a copy of an earlier state."""
        total, waited = self.total - start.total, self.waited - start.waited
        return Stopwatch(total, waited, self.images - start.images)

    @property
    def share_waiting(self) -> float:
        """The share of the time spent waiting for data, 0 to 1."""
        return self.waited / self.total if self.total else 0.0
