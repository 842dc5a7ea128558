"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from frtrain.registry import Registry
from frtrain.schema import Fraction, FractionBelowOne, NonNegative, Positive
from frtrain.training.length import RunLength, Unit

log = logging.getLogger(__name__)


class Schedule(Protocol):
    """A factor on the base learning rate, and a momentum where the schedule rules that as well."""

    def factor(self, step: int) -> float:
        """The factor for `step` (0 for the first), in [0, 1]."""
        ...

    def momentum(self, step: int) -> float | None:
        """The optimizer's momentum (Adam's and LAMB's beta1) for `step`; None: what the optimizer was made with."""
        ...


SCHEDULERS: Registry[Schedule] = Registry("scheduler")


class _Warmup:
    """Linear warm-up from near 0 to 1, then `decay` over the rest of the run.

    Args:
        length: of the run.
        warmup: length of the warm-up, in `warmup_unit`. Counted in epochs, steps or samples it is at most half of the
            run, so that short trial runs still learn.
        warmup_unit: what it is counted in.

    Raises:
        ValueError: a warm-up longer than the whole run.
    """

    def __init__(self, length: RunLength, warmup: NonNegative, warmup_unit: Unit):
        self.length = length
        if warmup_unit == "progress":
            _check_share("scheduler.warmup", warmup)
        most = length.steps if warmup_unit == "progress" else length.steps // 2
        asked = round(length.in_steps(warmup, warmup_unit))
        self.warmup_steps = min(asked, most)
        if asked > most:
            log.info("warm-up shortened from %s to %s steps, half of the run", f"{asked:,}", f"{most:,}")

    def factor(self, step: int) -> float:
        """The factor on the base learning rate at `step` (0 for the first)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        decaying = max(1, self.length.steps - self.warmup_steps)
        return self.decay(step, min(1.0, (step - self.warmup_steps) / decaying))

    def decay(self, step: int, progress: float) -> float:
        """The factor after warm-up; `progress` runs from 0 to 1."""
        raise NotImplementedError

    def momentum(self, step: int) -> float | None:
        """None: the momentum stays."""
        return None


@SCHEDULERS.register("constant")
class Constant(_Warmup):
    """1 after a linear warm-up: for runs without a known end, and to continue one."""

    def __init__(self, length: RunLength, warmup: NonNegative, warmup_unit: Unit):
        super().__init__(length, warmup, warmup_unit)

    def decay(self, step: int, progress: float) -> float:
        """1."""
        return 1.0


@SCHEDULERS.register("polynomial")
class Polynomial(_Warmup):
    """`final + (1 - final) (1 - progress)^power` after a linear warm-up."""

    def __init__(self, length: RunLength, warmup: NonNegative, warmup_unit: Unit, power: Positive, final: Fraction):
        super().__init__(length, warmup, warmup_unit)
        self.power, self.final = power, final

    def decay(self, step: int, progress: float) -> float:
        """The polynomial at `progress`."""
        return self.final + (1 - self.final) * (1 - progress) ** self.power


@SCHEDULERS.register("cosine")
class Cosine(_Warmup):
    """Half a cosine from 1 to `final` after a linear warm-up (Loshchilov and Hutter 2017, without restarts)."""

    def __init__(self, length: RunLength, warmup: NonNegative, warmup_unit: Unit, final: Fraction):
        super().__init__(length, warmup, warmup_unit)
        self.final = final

    def decay(self, step: int, progress: float) -> float:
        """The half cosine at `progress`."""
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@SCHEDULERS.register("multi_step")
class MultiStep(_Warmup):
    """Multiply by `gamma` at each milestone, counted in epochs, steps, samples, or as a share of the run (`progress`)."""

    def __init__(
        self,
        length: RunLength,
        warmup: NonNegative,
        warmup_unit: Unit,
        milestones: list[Positive],
        unit: Unit,
        gamma: Fraction,
    ):
        super().__init__(length, warmup, warmup_unit)
        if sorted(milestones) != milestones:
            raise ValueError(f"scheduler.milestones={milestones} must rise")
        if unit == "progress" and milestones:
            _check_share("scheduler.milestones", milestones[-1])
        self.milestone_steps = [length.in_steps(milestone, unit) for milestone in milestones]
        self.gamma = gamma

    def decay(self, step: int, progress: float) -> float:
        """`gamma` to the number of milestones passed."""
        return float(self.gamma ** sum(step >= milestone for milestone in self.milestone_steps))


ANNEALING: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 - math.cos(math.pi * progress)),
    "linear": lambda progress: progress,
}
"""Ways from 0 to 1."""


@SCHEDULERS.register("one_cycle")
class OneCycle:
    """One cycle (Smith 2018, arXiv 1803.09820): up to the full rate, down to nearly nothing, momentum the other way.

    The rate goes from `initial` to 1 in the first part of the run and to `final` in the rest, as shares of the base rate,
    which is the highest one. With `cycle_momentum` the momentum falls from `highest_momentum` to `lowest_momentum` while
    the rate rises, and comes back: large steps need less of it. The defaults are those of `torch.optim.lr_scheduler`'s
    OneCycleLR, which takes its values at the same steps.

    Args:
        length: of the run.
        warmup: length of the first part, in `warmup_unit`; counted in epochs, steps or samples at most half of the run.
        warmup_unit: what it is counted in.
        initial: share of the base rate in the first step.
        final: share of it in the last.
        annealing: the shape of both parts.
        cycle_momentum: whether the momentum is ruled as well; the optimizer's own is then not used.
        lowest_momentum: at the full rate.
        highest_momentum: in the first step and in the last.

    Raises:
        ValueError: a first part longer than the whole run, or a lowest momentum above the highest.
    """

    def __init__(
        self,
        length: RunLength,
        warmup: NonNegative,
        warmup_unit: Unit,
        initial: Fraction,
        final: Fraction,
        annealing: Literal["cosine", "linear"],
        cycle_momentum: bool,
        lowest_momentum: FractionBelowOne,
        highest_momentum: FractionBelowOne,
    ):
        if warmup_unit == "progress":
            _check_share("scheduler.warmup", warmup)
        if lowest_momentum > highest_momentum:
            raise ValueError(
                f"scheduler.lowest_momentum={lowest_momentum} is above scheduler.highest_momentum={highest_momentum}"
            )
        most = length.steps if warmup_unit == "progress" else length.steps / 2
        self.peak_step = min(length.in_steps(warmup, warmup_unit), most) - 1
        self.last_step = length.steps - 1
        self.initial, self.final, self.anneal = initial, final, ANNEALING[annealing]
        self.cycle_momentum, self.lowest, self.highest = cycle_momentum, lowest_momentum, highest_momentum

    def factor(self, step: int) -> float:
        """The factor on the base learning rate at `step` (0 for the first)."""
        return self._between(self.initial, 1.0, self.final, step)

    def momentum(self, step: int) -> float | None:
        """The momentum at `step`, or None where it is not cycled."""
        return self._between(self.highest, self.lowest, self.highest, step) if self.cycle_momentum else None

    def _between(self, first: float, peak: float, last: float, step: int) -> float:
        if step < self.peak_step:
            return first + (peak - first) * self.anneal(step / self.peak_step)
        falling = max(self.last_step - self.peak_step, 1e-9)
        return peak + (last - peak) * self.anneal(min(1.0, (step - self.peak_step) / falling))


def _check_share(key: str, value: float) -> None:
    if value > 1:
        raise ValueError(f"{key}={value} is a share of the run (unit progress): use a value from 0 to 1")
