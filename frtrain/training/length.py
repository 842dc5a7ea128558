"""How long a run is, and what a number of epochs, steps or samples is in its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from frtrain.config import TrainerConfig

Unit = Literal["epochs", "steps", "samples", "progress"]
"""What an amount is counted in; `progress` is a share of the whole run."""


@dataclass(frozen=True)
class RunLength:
    """The length of a run.

    Attributes:
        steps: optimizer steps of the whole run.
        steps_per_epoch: of one pass over the images; not a whole number in general.
        images_per_step: the global batch: rows of all processes, times the batches accumulated.
    """

    steps: int
    steps_per_epoch: float
    images_per_step: int

    @classmethod
    def of(cls, trainer: TrainerConfig, images: int) -> RunLength:
        """The length that `trainer.epochs`, `max_steps` and `max_samples` give, whichever comes first.

        Args:
            trainer: of which at least one of the three is set.
            images: of one pass over the training data.
        """
        images_per_step = trainer.batch_size * trainer.accumulate
        steps_per_epoch = images / images_per_step
        ends = [
            *([] if trainer.epochs is None else [math.ceil(trainer.epochs * steps_per_epoch - 1e-9)]),
            *([] if trainer.max_steps is None else [trainer.max_steps]),
            *([] if trainer.max_samples is None else [-(-trainer.max_samples // images_per_step)]),
        ]
        return cls(min(ends), steps_per_epoch, images_per_step)

    def in_steps(self, amount: float, unit: Unit) -> float:
        """An amount as a number of steps, not rounded."""
        if unit == "samples":
            return amount / self.images_per_step
        return amount * {"epochs": self.steps_per_epoch, "steps": 1.0, "progress": float(self.steps)}[unit]
