"""What a person at the terminal sees: a live line, or plain lines where the output is not a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from frtrain.training.logbook import Logger
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

PLAIN_INTERVAL_SECONDS = 15.0
SHOWN_WAIT_SHARE = 0.05
"""Of the time; below it, waiting for data is nothing to think about."""

SHOWN_SPREAD = 1.2
"""The fastest process by the slowest; below it, they differ by chance."""


class ProgressLine(Observer, Logger):
    """Shows step, loss, images/s, the share of time spent waiting for data where it matters, and the time left.

    Args:
        console: where to show.
        style: `live`, `plain`, `none`, or `auto`: live on a terminal, else plain.
        first_step, total_steps: of this process and of the run.
    """

    def __init__(
        self, console: Console, style: Literal["auto", "live", "plain", "none"], first_step: int, total_steps: int
    ):
        self.style = ("live" if console.is_terminal else "plain") if style == "auto" else style
        self.first_step, self.total_steps = first_step, total_steps
        self._last_plain = -PLAIN_INTERVAL_SECONDS
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self.console = console

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Move the bar."""
        if self.style == "live" and self._progress is None:
            self._start()
        if self._progress:
            self._progress.update(self._task, completed=run.state.step)

    def _start(self) -> None:
        self._progress = Progress(
            TextColumn("[bold]step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task("train", total=self.total_steps, completed=self.first_step, facts="")
        self._progress.start()

    def scalars(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Show the newest numbers of the loop."""
        if "train/loss" not in values:
            return
        waited = values["speed/data_wait_share"]
        waits = f"data wait {waited:.0%}  " if waited > SHOWN_WAIT_SHARE else ""
        slowest = values.get("speed/slowest_rank")
        spread = values.get("speed/images_per_second_of_fastest", 0) / values.get(
            "speed/images_per_second_of_slowest", 1
        )
        if slowest is not None and spread > SHOWN_SPREAD:
            waits += f"rank {slowest:.0f} is slowest  "
        facts = (
            f"epoch {epoch:.2f}  loss {values['train/loss']:.3f}  accuracy {values['train/accuracy']:.1%}  "
            f"{values['speed/images_per_second']:.0f} images/s  {waits}"
            f"ETA {_clock(values.get('speed/eta_seconds', 0.0))}"
        )
        now = time.monotonic()
        if self._progress:
            self._progress.update(self._task, completed=step, facts=facts)
        due = now - self._last_plain >= PLAIN_INTERVAL_SECONDS or step >= self.total_steps
        if self.style == "plain" and due:
            self._last_plain = now
            log.info("step %d/%d  %s", step, self.total_steps, facts)

    def after_run(self, run: Run) -> None:
        """Take the live line away."""
        self.close()

    def close(self) -> None:
        """Take the live line away, also when the run ends by an error."""
        if self._progress:
            self._progress.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
