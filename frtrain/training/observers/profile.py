"""`profile/`: what a few early steps spend their time on, for `trainer.profile=true`."""

from __future__ import annotations

import logging

from torch.profiler import ProfilerActivity, profile, schedule

from frtrain.files import write_atomically
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

SKIPPED_STEPS = 3
"""At first, in which loaders start, memory is allocated and networks are compiled."""

WARMUP_STEPS = 2
"""With the profiler on, not recorded: its own start takes time."""

RECORDED_STEPS = 3

SHOWN_OPERATORS = 30


class Profile(Observer):
    """Records the steps after the first few of a process, writes two files and goes on; of process 0 alone.

    `trace-rank0.json.gz` is a trace for chrome://tracing or ui.perfetto.dev; `table.txt` has the operators that took most time
    by themselves, without those that they call.
    """

    def __init__(self) -> None:
        self._profiler: profile | None = None
        self._steps = 0

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Start after the first step, and write after the last one that is recorded."""
        if self._steps > SKIPPED_STEPS + WARMUP_STEPS + RECORDED_STEPS:
            return
        with stopwatch.paused("profile"):
            if self._steps == 0:
                self._start(run)
            elif self._profiler is not None:
                self._profiler.step()  # after the last recorded one this calls `_write`
                if self._steps == SKIPPED_STEPS + WARMUP_STEPS + RECORDED_STEPS:
                    self._stop()
        self._steps += 1

    def after_run(self, run: Run) -> None:
        """Give up where the run ended earlier."""
        if self._profiler is not None:
            self._stop()
            if self._steps <= SKIPPED_STEPS + WARMUP_STEPS:
                needed = SKIPPED_STEPS + WARMUP_STEPS + RECORDED_STEPS + 1
                log.warning(
                    "trainer.profile=true: the run ended after %d steps, a profile takes %d", self._steps, needed
                )

    def _start(self, run: Run) -> None:
        on_device = [ProfilerActivity.CUDA] if run.device.type == "cuda" else []
        times = ["self_device_time_total", "self_cpu_time_total"] if on_device else ["self_cpu_time_total"]
        folder = run.folder.path / "profile"

        def write(profiler: profile) -> None:
            averages = profiler.key_averages()
            tables = [averages.table(sort_by=time, row_limit=SHOWN_OPERATORS) for time in times]
            try:
                folder.mkdir(parents=True, exist_ok=True)
                profiler.export_chrome_trace(str(folder / "trace-rank0.json.gz"))
                write_atomically(folder / "table.txt", "\n\n".join(tables))
            except (OSError, RuntimeError) as error:
                log.warning("%s: the profile cannot be written, training goes on (%s)", folder, error)
                return
            log.info(
                "profile of %d steps: the operators that take most time in %s", RECORDED_STEPS, folder / "table.txt"
            )
            log.info("  the trace for ui.perfetto.dev: %s", folder / "trace-rank0.json.gz")

        self._profiler = profile(
            activities=[ProfilerActivity.CPU, *on_device],
            schedule=schedule(wait=SKIPPED_STEPS, warmup=WARMUP_STEPS, active=RECORDED_STEPS, repeat=1),
            on_trace_ready=write,
        )
        self._profiler.start()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
        self._profiler = None
