"""Averages of the loop's numbers, every so many steps."""

from __future__ import annotations

import torch

from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch


class Scalars(Observer):
    """Publishes `train/...` and `speed/...` to the logbook every `every_steps` steps and at the last one.

    Values are means over the steps since the last publication (with accumulation: over each step's last batch). Reading
    them is the loop's only synchronisation with the device besides the non-finite guard.
    """

    def __init__(self, every_steps: int):
        self.every_steps = every_steps
        self._sums: dict[str, torch.Tensor] = {}
        self._images = 0

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Add a step, and publish when due."""
        self._images += len(facts.batch) * run.config.trainer.accumulate
        if facts.applied:
            self._add("count", torch.ones(()))
            self._add("train/loss", facts.loss)
            self._add("train/accuracy", facts.classifier.accuracy)
            self._add("train/target_similarity", facts.classifier.target_similarity.mean())
            self._add("train/embedding_norm", facts.classifier.embedding_norm.mean())
            self._add("train/gradient_norm", run.optimization.gradient_norm)
            for name, value in facts.classifier.diagnostics.items():
                self._add(f"train/{name}", value)
        if run.state.step % self.every_steps == 0 or run.finished:
            self._publish(run, stopwatch)

    def _add(self, tag: str, value: torch.Tensor) -> None:
        value = value.detach().float()
        self._sums[tag] = self._sums[tag] + value if tag in self._sums else value

    def _publish(self, run: Run, stopwatch: Stopwatch) -> None:
        lap = stopwatch.lap()
        count = float(self._sums.pop("count", 0.0))
        values = {tag: float(total) / count for tag, total in self._sums.items()}
        values["train/learning_rate"] = run.optimization.learning_rate
        values["train/skipped_steps"] = float(run.state.skipped)
        values["speed/images_per_second"] = self._images / lap.seconds
        values["speed/data_wait_share"] = min(1.0, lap.waited_seconds / lap.seconds)
        run.logbook.scalars(run.state.step, run.epoch, values)
        self._sums, self._images = {}, 0
