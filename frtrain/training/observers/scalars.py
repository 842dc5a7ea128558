"""Averages of the loop's numbers, every so many steps."""

from __future__ import annotations

from collections import Counter

import torch

from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.observers.corrupt_images import CorruptImagesFile
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch


class Scalars(Observer):
    """Publishes `train/...` and `speed/...` to the logbook every `every_steps` steps and at the last one.

    Values are means over the steps since the last publication (with accumulation: over each step's last batch), each over
    the steps in which it was there. What the head tells of wrong classes is computed in the steps that are published, no
    others. `corrupt_images` gives `data/corrupt_images`. Reading the values is the loop's only synchronisation with the device besides the non-finite guard.
    """

    def __init__(self, every_steps: int, corrupt_images: CorruptImagesFile | None = None):
        self.every_steps = every_steps
        self.corrupt_images = corrupt_images
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._images = 0

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Add a step, and publish when due."""
        self._images += run.config.trainer.batch_size * run.config.trainer.accumulate
        if facts.applied:
            self._add("train/loss", facts.loss)
            self._add("train/accuracy", facts.classifier.accuracy)
            self._add("train/target_similarity", facts.classifier.target_similarity.mean())
            if run.classifier.head.geometry == "cosine":
                self._add("train/target_angle", facts.target_angle_degrees.mean())
            self._add("train/embedding_norm", facts.classifier.embedding_norm.mean())
            self._add("train/gradient_norm", run.optimization.gradient_norm)
            for name, value in facts.classifier.diagnostics.items():
                self._add(f"train/{name}", value)
        if self._due(run, run.state.step):
            self._publish(run, stopwatch)
        run.classifier.watch = self._due(run, run.state.step + 1)

    def after_run(self, run: Run) -> None:
        """Report the images that the last validation has met."""
        if self.corrupt_images is not None:
            self.corrupt_images.collect()

    def _due(self, run: Run, step: int) -> bool:
        return step % self.every_steps == 0 or step >= run.total_steps

    def _add(self, tag: str, value: torch.Tensor) -> None:
        value = value.detach().float()
        self._sums[tag] = self._sums[tag] + value if tag in self._sums else value
        self._counts[tag] += 1

    def _publish(self, run: Run, stopwatch: Stopwatch) -> None:
        lap = stopwatch.lap()
        values = {tag: float(total) / self._counts[tag] for tag, total in self._sums.items()}
        values["train/learning_rate"] = run.optimization.learning_rate
        values["train/skipped_steps"] = float(run.state.skipped)
        values["speed/images_per_second"] = self._images / lap.seconds
        values["speed/data_wait_share"] = min(1.0, lap.waited_seconds / lap.seconds)
        if self.corrupt_images is not None:
            values["data/corrupt_images"] = float(self.corrupt_images.collect())
        run.logbook.scalars(run.state.step, run.epoch, values)
        self._sums, self._counts, self._images = {}, Counter(), 0
