"""How long training waits for data."""

import time


class Stopwatch:
    """Splits the time into waiting for data and computing, in seconds, and counts the images."""

    def __init__(self, waited: float = 0.0, computed: float = 0.0, images: int = 0):
        """Start."""
        self.waited, self.computed, self.images = waited, computed, images
        self._last = time.perf_counter()

    def add_time(self, waiting: bool) -> None:
        """All the time since the last call was spent waiting, or none of it."""
        last, self._last = self._last, time.perf_counter()
        self.waited += waiting * (self._last - last)
        self.computed += (not waiting) * (self._last - last)

    def since(self, start: "Stopwatch") -> "Stopwatch":
        """What came after `start`, a copy of an earlier state."""
        waited, computed = self.waited - start.waited, self.computed - start.computed
        return Stopwatch(waited, computed, self.images - start.images)

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.waited + self.computed

    @property
    def share_waiting(self) -> float:
        """The share of the time spent waiting for data, 0 to 1."""
        return self.waited / self.total if self.total else 0.0
