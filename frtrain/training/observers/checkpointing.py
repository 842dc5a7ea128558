"""Writing checkpoints when they are due."""

from __future__ import annotations

import time

import torch

from frtrain.errors import TrainingError
from frtrain.training.checkpoint import write_checkpoint
from frtrain.training.distributed import all_or_none
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.state import crossed
from frtrain.training.stopwatch import Stopwatch


class Checkpointing(Observer):
    """Writes `checkpoints/step-...`, points `last` and `best` at them, keeps the newest few and the best.

    Process 0 writes; the others hand it their shards and wait, so that a full disk ends them, too. Comes after validation in the list of observers, so that a new best is known when its checkpoint is written.
    """

    def __init__(self) -> None:
        self._written_step: int | None = None

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Write when the configured interval has passed or a new best was reached."""
        step, config = run.state.step, run.config.checkpoint
        due = crossed(step, config.every_epochs * run.steps_per_epoch) or run.finished
        due = due or (config.every_steps is not None and step % config.every_steps == 0)
        if due or run.state.best_step == step:
            began = time.perf_counter()
            self._write(run)
            stopwatch.exclude(time.perf_counter() - began)

    def after_run(self, run: Run) -> None:
        """Write where a stop request ended the run."""
        if run.state.step and self._written_step != run.state.step:
            self._write(run)

    def _write(self, run: Run) -> None:
        step = run.state.step
        with all_or_none(run.processes):
            check_weights(run)
        checkpoint = run.to_checkpoint()
        with all_or_none(run.processes):
            if checkpoint is not None:
                write_checkpoint(run.folder.checkpoint(step), checkpoint)
                run.folder.point("last", step)
                if run.state.best_step == step:
                    run.folder.point("best", step)
                run.folder.prune(run.config.checkpoint.keep, run.state.best_step)
        self._written_step = step


def check_weights(run: Run) -> None:
    """Refuse to save what cannot be used: the guard of a step looks at its gradients, not at what the step made of them.

    Raises:
        TrainingError: a weight or a statistic is not finite; names it.
    """
    for part, module in (("backbone", run.backbone), ("classifier", run.classifier)):
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"{part}.{name} is not finite after step {run.state.step}: no checkpoint is written, earlier ones are as "
                    "they were. Usual remedies: a smaller optimizer.lr, a longer scheduler.warmup_epochs, trainer.clip_norm"
                )
