"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from typing import Literal, Protocol

from frtrain.registry import Registry
from frtrain.schema import Fraction, NonNegative, Positive


class Schedule(Protocol):
    """A factor on the base learning rate."""

    def factor(self, step: int) -> float:
        """The factor for `step` (0 for the first), in [0, 1]."""
        ...


SCHEDULERS: Registry[Schedule] = Registry("scheduler")


class _Warmup:
    """Linear warm-up from near 0 to 1, then `decay` over the rest of the run.

    Args:
        steps_per_epoch: optimizer steps of one pass over the data; need not be whole.
        total_steps: of the run.
        warmup_epochs: length of the warm-up; at most half of a run, so that short trial runs still learn.
    """

    def __init__(self, steps_per_epoch: float, total_steps: int, warmup_epochs: float):
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = total_steps
        self.warmup_steps = min(round(warmup_epochs * steps_per_epoch), total_steps // 2)

    def factor(self, step: int) -> float:
        """The factor on the base learning rate at `step` (0 for the first)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        decaying = max(1, self.total_steps - self.warmup_steps)
        return self.decay(step, min(1.0, (step - self.warmup_steps) / decaying))

    def decay(self, step: int, progress: float) -> float:
        """The factor after warm-up; `progress` runs from 0 to 1."""
        raise NotImplementedError


@SCHEDULERS.register("polynomial")
class Polynomial(_Warmup):
    """`final + (1 - final) (1 - progress)^power` after a linear warm-up."""

    def __init__(
        self, steps_per_epoch: float, total_steps: int, warmup_epochs: NonNegative, power: Positive, final: Fraction
    ):
        super().__init__(steps_per_epoch, total_steps, warmup_epochs)
        self.power, self.final = power, final

    def decay(self, step: int, progress: float) -> float:
        """The polynomial at `progress`."""
        return self.final + (1 - self.final) * (1 - progress) ** self.power


@SCHEDULERS.register("cosine")
class Cosine(_Warmup):
    """Half a cosine from 1 to `final` after a linear warm-up (Loshchilov and Hutter 2017, without restarts)."""

    def __init__(self, steps_per_epoch: float, total_steps: int, warmup_epochs: NonNegative, final: Fraction):
        super().__init__(steps_per_epoch, total_steps, warmup_epochs)
        self.final = final

    def decay(self, step: int, progress: float) -> float:
        """The half cosine at `progress`."""
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@SCHEDULERS.register("multi_step")
class MultiStep(_Warmup):
    """Multiply by `gamma` at each milestone, counted in epochs, steps, or as a share of the run (`progress`)."""

    def __init__(
        self,
        steps_per_epoch: float,
        total_steps: int,
        warmup_epochs: NonNegative,
        milestones: list[Positive],
        unit: Literal["progress", "epochs", "steps"],
        gamma: Fraction,
    ):
        super().__init__(steps_per_epoch, total_steps, warmup_epochs)
        if sorted(milestones) != milestones:
            raise ValueError(f"scheduler.milestones={milestones} must rise")
        steps_per_unit = {"progress": float(total_steps), "epochs": steps_per_epoch, "steps": 1.0}[unit]
        self.milestone_steps = [milestone * steps_per_unit for milestone in milestones]
        self.gamma = gamma

    def decay(self, step: int, progress: float) -> float:
        """`gamma` to the number of milestones passed."""
        return float(self.gamma ** sum(step >= milestone for milestone in self.milestone_steps))
