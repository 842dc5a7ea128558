"""Averages of the loop's numbers, its speed and its memory, every so many steps."""

from __future__ import annotations

import torch

from frtrain.training.memory import memory_mib
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.observers.corrupt_images import CorruptImagesFile
from frtrain.training.run import Run
from frtrain.training.stopwatch import Lap, Stopwatch
from frtrain.training.time_left import TimeLeft


class Scalars(Observer):
    """Publishes `train/...`, `speed/...` and `memory/...` to the logbook every `every_steps` steps and at `total_steps`.

    Values are means over the steps since the last publication (with accumulation: over each step's last batch), each over
    the steps in which it was there. What the head tells of wrong classes is computed in the steps that are published, no
    others. `corrupt_images` gives `data/corrupt_images`. Reading the values is the loop's only synchronisation with the device besides the non-finite guard.
    """

    def __init__(self, every_steps: int, corrupt_images: CorruptImagesFile | None = None):
        self.every_steps = every_steps
        self.corrupt_images = corrupt_images
        self._sums: dict[str, torch.Tensor] = {}
        self._counts: dict[str, torch.Tensor] = {}
        self._images = 0
        self._time_left: TimeLeft | None = None

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Add a step, and publish when due."""
        if self._time_left is None:
            self._time_left = TimeLeft(run.state.step - 1, run.total_steps)
        self._images += run.config.trainer.batch_size * run.config.trainer.accumulate
        seen = facts.classifier
        values = {
            "loss": facts.loss,
            "accuracy": seen.accuracy,
            "target_similarity": seen.target_similarity.mean(),
            **({"target_angle": facts.target_angle_degrees.mean()} if run.classifier.head.geometry == "cosine" else {}),
            "embedding_norm": seen.embedding_norm.mean(),
            "gradient_norm": run.optimization.gradient_norm,
            **{f"gradient_norm_{part}": norm for part, norm in run.optimization.gradient_norms.items()},
            **seen.diagnostics,
        }
        for name, value in values.items():
            self._add(f"train/{name}", value, facts.applied)
        if self._due(run, run.state.step):
            self._publish(run, stopwatch)
        run.classifier.watch = self._due(run, run.state.step + 1)

    def after_run(self, run: Run) -> None:
        """Report the images that the last validation has met."""
        if self.corrupt_images is not None:
            self.corrupt_images.collect()

    def _due(self, run: Run, step: int) -> bool:
        return step % self.every_steps == 0 or step >= run.total_steps

    def _add(self, tag: str, value: torch.Tensor, applied: torch.Tensor) -> None:
        """Add the value of a step, unless it was skipped, without waiting for the device."""
        value = torch.where(applied, value.detach().float(), 0)
        self._sums[tag] = self._sums[tag] + value if tag in self._sums else value
        self._counts[tag] = self._counts[tag] + applied.int() if tag in self._counts else applied.int()

    def _publish(self, run: Run, stopwatch: Stopwatch) -> None:
        lap = stopwatch.lap()
        counts = {tag: int(count) for tag, count in self._counts.items()}
        values = {tag: float(total) / counts[tag] for tag, total in self._sums.items() if counts[tag]}
        values["train/learning_rate"] = run.optimization.learning_rate
        values["train/skipped_steps"] = float(run.state.skipped)
        if run.optimization.scaler is not None:
            values["train/grad_scale"] = float(run.optimization.scaler.scale)
        values |= self._speed(run, lap)
        if self._time_left is not None:
            self._time_left.add(run.state.step, lap)
            values["speed/eta_seconds"] = self._time_left.seconds(run.state.step)
        if self.corrupt_images is not None:
            values["data/corrupt_images"] = float(self.corrupt_images.collect())
        run.logbook.scalars(run.state.step, run.epoch, values)
        self._sums, self._counts, self._images = {}, {}, 0

    def _speed(self, run: Run, lap: Lap) -> dict[str, float]:
        """Speed and memory. Several processes tell each other theirs, so that a slow one shows."""
        values = {
            "speed/images_per_second": self._images / lap.seconds,
            "speed/data_wait_share": lap.data_wait_share,
            "speed/communication_share": lap.communication_share,
            "speed/compute_share": lap.compute_share,
        }
        memory = {f"memory/{name}_mib": value for name, value in memory_mib(run.device).items()}
        if run.processes.count == 1:
            return values | memory
        # Processes take their steps together: the slow one is that for which the others wait, and which waits least itself.
        alone = self._images / max(lap.seconds - lap.communicated_seconds, 1e-9)
        own = torch.tensor([alone, lap.data_wait_share, *memory.values()], dtype=torch.float64)
        everyones = run.processes.stack(own)
        values["speed/slowest_rank"] = float(everyones[:, 0].argmin())
        values["speed/images_per_second_of_slowest"] = float(everyones[:, 0].min())
        values["speed/images_per_second_of_fastest"] = float(everyones[:, 0].max())
        values["speed/data_wait_share_largest"] = float(everyones[:, 1].max())
        return values | dict(zip(memory, everyones[:, 2:].amax(dim=0).tolist(), strict=True))
