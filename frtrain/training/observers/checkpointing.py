"""Writing checkpoints when they are due."""

from __future__ import annotations

from frtrain.training.checkpoint_thread import CheckpointWriter, Written
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.state import crossed
from frtrain.training.stopwatch import Stopwatch


class Checkpointing(Observer):
    """Writes `checkpoints/step-...`, points `last` and `best` at them, removes those that are not to be kept.

    Every process writes what it has; process 0 does the rest. Comes after validation in the list of observers, so that a new
    best is known when its checkpoint is written. An error ends the run when the write is over: with `checkpoint.background` at
    a later step. Publishes `speed/checkpoint_stall_ms` beside the next numbers of the logbook.
    """

    def __init__(self) -> None:
        self._begun_step: int | None = None
        self._writer: CheckpointWriter | None = None

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Write when the configured interval has passed or a new best was reached; complete what was written meanwhile."""
        writer = self._writer_of(run)
        if writer.pending:
            with stopwatch.paused("checkpoint"):
                self._publish(run, writer.completed())
        step, config = run.state.step, run.config.checkpoint
        due = crossed(step, config.every_epochs * run.steps_per_epoch) or run.finished
        due = due or (config.every_steps is not None and step % config.every_steps == 0)
        if due or run.state.best_step == step:
            with stopwatch.paused("checkpoint"):
                self._begin(run, writer)

    def after_run(self, run: Run) -> None:
        """Write where a stop request ended the run, and wait for the disk."""
        writer = self._writer_of(run)
        if run.state.step and self._begun_step != run.state.step:
            self._begin(run, writer)
        self._publish(run, writer.wait())

    def after_failure(self, run: Run) -> None:
        """Complete the checkpoint that was being written, if all of it is there."""
        self._publish(run, self._writer_of(run).rescue())

    def _begin(self, run: Run, writer: CheckpointWriter) -> None:
        step = run.state.step
        run.logbook.flush()  # so that curves reach as far as the newest checkpoint, whatever happens
        self._publish(run, writer.begin(run.folder.checkpoint(step), run.to_checkpoint()))
        self._begun_step = step
        if not run.config.checkpoint.background:
            self._publish(run, writer.wait())

    def _publish(self, run: Run, written: Written | None) -> None:
        """Let everybody see a complete checkpoint."""
        if written is None or run.processes.rank > 0:
            return
        step, best_step = int(written.state["step"]), written.state["best_step"]
        run.folder.point("last", step)
        if best_step == step:
            run.folder.point("best", step)
        run.folder.prune(run.config.checkpoint.keep, best_step, run.config.checkpoint.keep_every_steps)
        run.logbook.note({"speed/checkpoint_stall_ms": written.stall_seconds * 1e3})

    def _writer_of(self, run: Run) -> CheckpointWriter:
        if self._writer is None:
            self._writer = CheckpointWriter(run.processes, run.config.checkpoint.background)
        return self._writer
