from __future__ import annotations

import math

import pytest

from frtrain.errors import ConfigError
from frtrain.training.schedule import SCHEDULERS, Schedule


def schedule(name: str, total_steps: int = 100, **parameters: object) -> Schedule:
    spec = {"name": name, "warmup_epochs": 0, **parameters}
    return SCHEDULERS.build(spec, steps_per_epoch=10.0, total_steps=total_steps)


def test_warm_up_rises_in_equal_steps_to_the_full_rate():
    factors = [schedule("cosine", warmup_epochs=0.5, final=0.0).factor(step) for step in range(6)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0


def test_polynomial_of_power_one_falls_linearly_to_its_end():
    linear = schedule("polynomial", power=1.0, final=0.0)
    assert [linear.factor(step) for step in (0, 25, 50, 100)] == pytest.approx([1, 0.75, 0.5, 0])


def test_polynomial_of_power_two_is_the_square():
    assert schedule("polynomial", power=2.0, final=0.0).factor(50) == pytest.approx(0.25)


def test_a_final_share_is_where_the_decay_ends():
    assert schedule("polynomial", power=1.0, final=0.1).factor(100) == pytest.approx(0.1)
    assert schedule("cosine", final=0.1).factor(100) == pytest.approx(0.1)


def test_cosine_is_half_a_cosine():
    cosine = schedule("cosine", final=0.0)
    assert cosine.factor(30) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.3)))


@pytest.mark.parametrize(("unit", "milestones"), [("progress", [0.5, 0.75]), ("epochs", [5, 7.5]), ("steps", [50, 75])])
def test_multi_step_falls_at_milestones_of_every_unit(unit: str, milestones: list[float]):
    steps = schedule("multi_step", milestones=milestones, unit=unit, gamma=0.1)
    assert [steps.factor(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_takes_at_most_half_of_a_short_run():
    assert schedule("cosine", total_steps=4, warmup_epochs=3, final=0.0).factor(2) == 1.0


def test_milestones_that_do_not_rise_are_refused():
    with pytest.raises(ConfigError, match=r"scheduler\.milestones.*must rise"):
        schedule("multi_step", milestones=[0.7, 0.5], unit="progress", gamma=0.1)
