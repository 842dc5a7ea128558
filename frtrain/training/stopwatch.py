"""How long the loop worked, how long it waited for data and for other processes, and how long it stood still on purpose."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from frtrain.communication import COMMUNICATION

Item = TypeVar("Item")

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pause:
    """Time that is not training.

    Attributes:
        what: was done, e.g. `validation`.
        seconds: it took.
    """

    what: str
    seconds: float


@dataclass(frozen=True)
class Lap:
    """Time since the previous lap.

    Attributes:
        seconds: wall-clock time, without what was excluded.
        waited_seconds: the part of it in which the loop waited for data. With a GPU, which may have had work meanwhile, it is
            the host that waited.
        communicated_seconds: the part of it in which collectives held up the step, see `frtrain.communication`.
        pauses: what was excluded.
    """

    seconds: float
    waited_seconds: float
    communicated_seconds: float = 0.0
    pauses: tuple[Pause, ...] = ()

    @property
    def data_wait_share(self) -> float:
        """Of the time, 0 to 1."""
        return min(1.0, self.waited_seconds / self.seconds)

    @property
    def communication_share(self) -> float:
        """Of the time, 0 to 1."""
        return min(1.0, self.communicated_seconds / self.seconds)

    @property
    def compute_share(self) -> float:
        """What remains of the time: neither data nor other processes were waited for."""
        return max(0.0, 1.0 - self.data_wait_share - self.communication_share)


class Pulse(Protocol):
    """Who is told that the loop is alive."""

    def beat(self) -> None:
        """A batch is asked for, or there."""

    def hold(self, what: str) -> None:
        """From here on the loop stands still on purpose."""

    def release(self) -> None:
        """It goes on."""


class Stopwatch:
    """Measures an iteration from outside, in laps, by a clock that nobody sets.

    Args:
        device: of the steps.

    Attributes:
        pulse: is told of every batch and pause; None: nobody is.
    """

    def __init__(self, device: torch.device = CPU) -> None:
        self.pulse: Pulse | None = None
        self._lap_start = time.perf_counter()
        self._waited = 0.0
        self._pauses: list[Pause] = []
        COMMUNICATION.start(device)

    def waiting_for(self, items: Iterable[Item]) -> Iterator[Item]:
        """Iterate, counting the time until each item is there as waiting."""
        iterator = iter(items)
        while True:
            self._beat()
            asked = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            self._beat()
            yield item

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """What is done within this context (`validation`, `checkpoint`) is not training, and may take its time."""
        began = time.perf_counter()
        if self.pulse is not None:
            self.pulse.hold(what)
        try:
            with COMMUNICATION.not_counted():
                yield
        finally:
            self.exclude(time.perf_counter() - began, what)
            if self.pulse is not None:
                self.pulse.release()

    def exclude(self, seconds: float, what: str = "pause") -> None:
        """Take time that is not training out of the current lap."""
        self._lap_start += seconds
        self._pauses.append(Pause(what, seconds))

    def lap(self) -> Lap:
        """Return the time since the last call and start anew."""
        now = time.perf_counter()
        lap = Lap(max(now - self._lap_start, 1e-9), self._waited, COMMUNICATION.take(), tuple(self._pauses))
        self._lap_start, self._waited, self._pauses = now, 0.0, []
        return lap

    def _beat(self) -> None:
        if self.pulse is not None:
            self.pulse.beat()
