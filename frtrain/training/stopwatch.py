"""How long the loop worked and how long it waited for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Lap:
    """Time since the previous lap.

    Attributes:
        seconds: wall-clock time, without what was excluded.
        waited_seconds: the part of it in which the loop waited for data.
    """

    seconds: float
    waited_seconds: float


class Stopwatch:
    """Measures an iteration from outside, in laps."""

    def __init__(self) -> None:
        self._lap_start = time.perf_counter()
        self._waited = 0.0

    def waiting_for(self, items: Iterable[Item]) -> Iterator[Item]:
        """Iterate, counting the time until each item is there as waiting."""
        iterator = iter(items)
        while True:
            asked = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield item

    def exclude(self, seconds: float) -> None:
        """Take time that is not training (validation, a checkpoint) out of the current lap."""
        self._lap_start += seconds

    def lap(self) -> Lap:
        """Return the time since the last call and start anew."""
        now = time.perf_counter()
        lap = Lap(max(now - self._lap_start, 1e-9), self._waited)
        self._lap_start, self._waited = now, 0.0
        return lap
