"""The contract of an observer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from frtrain.classifier.base import Facts
from frtrain.data.batches import Batch
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch


@dataclass(frozen=True)
class StepFacts:
    """What observers are told of a step: its last batch and what the classifier saw of it.

    Attributes:
        batch: this process's rows, on the CPU as loaded, or on the device where they are augmented there.
        loss: scalar, detached, not divided by the accumulation.
        classifier: similarities and diagnostics of the batch, all processes' rows.
        applied: whether the weights were updated, a bool scalar on the device: to look at it is to wait for the device.
    """

    batch: Batch
    loss: torch.Tensor
    classifier: Facts
    applied: torch.Tensor

    @property
    def target_angle_degrees(self) -> torch.Tensor:
        """`[B]`, between embedding and own class centre; of heads whose similarity is a cosine."""
        return torch.rad2deg(torch.arccos(self.classifier.target_similarity.float().clamp(-1, 1)))


class Observer:
    """Told after every optimizer step, in the order of the list; `run.state` already counts the step.

    With several processes each has observers of its own, but only process 0 writes: `run.logbook` of the others is empty.
    """

    def after_batch(self, run: Run, batch: Batch, loss: torch.Tensor, facts: Facts) -> None:
        """A batch has its gradients, and `run.state` counts it not yet. With accumulation a step has several batches."""

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Look at a step. Time that is not training is to be spent in `stopwatch.paused(...)`."""

    def after_run(self, run: Run) -> None:
        """The loop has ended, finished or stopped; the last weights are in `run`."""

    def after_failure(self, run: Run) -> None:
        """The run ends by an error, maybe of this process alone: bring to an end what must not be left half-done.

        Other processes may be gone, so none may be talked to.
        """
