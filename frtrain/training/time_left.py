"""How long a run will still take, from how it went so far."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from frtrain.training.stopwatch import Lap

LAPS = 50
"""The newest so many laps make the pace, so that it follows a machine that becomes faster or slower."""


@dataclass
class Recurring:
    """A kind of pause that comes again and again.

    Attributes:
        first_step, last_step: of the run, after which it came for the first and for the last time in this process.
        times: it came.
        seconds: it took in all.
    """

    first_step: int
    last_step: int
    times: int
    seconds: float

    def seconds_after(self, step: int, total_steps: int) -> float:
        """What it will still take, if it comes as often and takes as long as before."""
        # Once seen, it has come at most every `first_step` steps, also where earlier ones belong to another process.
        apart = (self.last_step - self.first_step) / (self.times - 1) if self.times > 1 else self.first_step
        remaining = max(0, total_steps - max(step, self.last_step))
        return self.seconds / self.times * (remaining / apart) if apart > 0 else 0.0


class TimeLeft:
    """Adds up laps of this process: those of an earlier process, on a machine that may have been another, tell nothing.

    Args:
        first_step: steps done when this process began.
        total_steps: of the run.
    """

    def __init__(self, first_step: int, total_steps: int):
        self.total_steps = total_steps
        self._step = first_step
        self._paces: deque[tuple[int, float]] = deque(maxlen=LAPS)
        self._warm = False
        self._pauses: dict[str, Recurring] = {}

    def add(self, step: int, lap: Lap) -> None:
        """Take in the lap that ends after `step`."""
        if self._paces and not self._warm:
            self._paces.clear()  # the first lap of a process starts loaders, compiles and allocates
            self._warm = True
        if step > self._step:
            self._paces.append((step - self._step, lap.seconds))
        for pause in lap.pauses:
            known = self._pauses.get(pause.what)
            if known is None:
                # It came after the step at which the lap began: observers publish first and pause then.
                self._pauses[pause.what] = Recurring(max(self._step, 1), max(self._step, 1), 1, pause.seconds)
            else:
                known.last_step, known.times = max(self._step, 1), known.times + 1
                known.seconds += pause.seconds
        self._step = step

    def seconds(self, step: int) -> float:
        """From after `step` to the end of the loop, validations and checkpoints included; 0 while nothing is known."""
        steps = sum(count for count, _ in self._paces)
        if not steps:
            return 0.0
        training = sum(seconds for _, seconds in self._paces) / steps * max(0, self.total_steps - step)
        return training + sum(pause.seconds_after(step, self.total_steps) for pause in self._pauses.values())
