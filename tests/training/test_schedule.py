from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from frtrain.errors import ConfigError
from frtrain.training.length import RunLength
from frtrain.training.schedule import SCHEDULERS, Schedule

ONE_CYCLE = {"warmup": 0.3, "warmup_unit": "progress", "initial": 0.04, "final": 4e-6, "annealing": "cosine"}
MOMENTA = {"cycle_momentum": True, "lowest_momentum": 0.85, "highest_momentum": 0.95}


def schedule(name: str, total_steps: int = 100, **parameters: object) -> Schedule:
    spec = {"name": name, "warmup": 0, "warmup_unit": "epochs", **parameters}
    return SCHEDULERS.build(spec, length=RunLength(total_steps, 10.0, 8))


def rates_of_torch(kind: type, steps: int, **parameters: object) -> list[tuple[float, float]]:
    """Learning rate, of 1, and momentum in each step of a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    theirs = kind(optimizer, **parameters)
    rates = []
    for _ in range(steps):
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        theirs.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "kind", "theirs"),
    [
        (("polynomial", {"power": 1.0, "final": 0.0}), lr_scheduler.PolynomialLR, {"total_iters": 37}),
        (("polynomial", {"power": 2.0, "final": 0.0}), lr_scheduler.PolynomialLR, {"total_iters": 37, "power": 2.0}),
        (("cosine", {"final": 0.0}), lr_scheduler.CosineAnnealingLR, {"T_max": 37}),
        (("cosine", {"final": 0.1}), lr_scheduler.CosineAnnealingLR, {"T_max": 37, "eta_min": 0.1}),
        (
            ("multi_step", {"milestones": [5, 20], "unit": "steps", "gamma": 0.1}),
            lr_scheduler.MultiStepLR,
            {"milestones": [5, 20], "gamma": 0.1},
        ),
        (
            ("constant", {"warmup": 10, "warmup_unit": "steps"}),
            lr_scheduler.LinearLR,
            {"start_factor": 0.1, "total_iters": 9},
        ),
    ],
)
def test_a_schedule_takes_the_values_of_torch_in_every_step(
    ours: tuple[str, dict[str, object]], kind: type, theirs: dict[str, object]
):
    name, parameters = ours
    own = schedule(name, 37, **parameters)
    expected = [rate for rate, _ in rates_of_torch(kind, 37, **theirs)]
    assert [own.factor(step) for step in range(37)] == pytest.approx(expected, abs=1e-12)
    assert own.momentum(0) is None


@pytest.mark.parametrize("steps", [2, 10, 37, 100])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.45])
@pytest.mark.parametrize(("annealing", "strategy"), [("cosine", "cos"), ("linear", "linear")])
def test_one_cycle_takes_rate_and_momentum_of_torch_in_every_step(
    steps: int, share: float, annealing: str, strategy: str
):
    own = schedule("one_cycle", steps, **{**ONE_CYCLE, **MOMENTA, "warmup": share, "annealing": annealing})
    expected = rates_of_torch(
        lr_scheduler.OneCycleLR,
        steps,
        max_lr=1.0,
        total_steps=steps,
        pct_start=share,
        anneal_strategy=strategy,
    )
    assert [own.factor(step) for step in range(steps)] == pytest.approx([rate for rate, _ in expected], abs=1e-12)
    assert [own.momentum(step) for step in range(steps)] == pytest.approx([momentum for _, momentum in expected])


def test_one_cycle_leaves_the_momentum_alone_unless_asked():
    assert schedule("one_cycle", **{**ONE_CYCLE, **MOMENTA, "cycle_momentum": False}).momentum(3) is None


def test_one_cycle_reaches_the_full_rate_in_a_single_step_where_torch_divides_by_zero():
    assert schedule("one_cycle", 10, **{**ONE_CYCLE, **MOMENTA, "warmup": 0.1}).factor(0) == 1.0


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ["constant", "polynomial", "cosine", "multi_step", "one_cycle"])
def test_a_run_of_a_few_steps_has_rates_between_nothing_and_the_full_one(name: str, steps: int):
    parameters = {
        "constant": {},
        "polynomial": {"power": 1.0, "final": 0.0},
        "cosine": {"final": 0.0},
        "multi_step": {"milestones": [0.5], "unit": "progress", "gamma": 0.1},
        "one_cycle": {**ONE_CYCLE, **MOMENTA},
    }[name]
    own = schedule(name, steps, **{"warmup": 1, **parameters})
    assert all(0 <= own.factor(step) <= 1 for step in range(steps + 2))


def test_warm_up_rises_in_equal_steps_to_the_full_rate():
    factors = [schedule("cosine", warmup=0.5, final=0.0).factor(step) for step in range(6)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0


@pytest.mark.parametrize(("warmup", "unit"), [(0.5, "epochs"), (5, "steps"), (40, "samples"), (0.05, "progress")])
def test_warm_up_is_counted_in_every_unit(warmup: float, unit: str):
    own = schedule("constant", warmup=warmup, warmup_unit=unit)
    assert [own.factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_a_final_share_is_where_the_decay_ends():
    assert schedule("polynomial", power=1.0, final=0.1).factor(100) == pytest.approx(0.1)
    assert schedule("cosine", final=0.1).factor(100) == pytest.approx(0.1)


def test_the_decay_begins_where_the_warm_up_ends():
    cosine = schedule("cosine", warmup=10, warmup_unit="steps", final=0.0)
    assert cosine.factor(10) == 1.0
    assert cosine.factor(10 + 27) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.3)))


@pytest.mark.parametrize(
    ("unit", "milestones"),
    [("progress", [0.5, 0.75]), ("epochs", [5, 7.5]), ("steps", [50, 75]), ("samples", [400, 600])],
)
def test_multi_step_falls_at_milestones_of_every_unit(unit: str, milestones: list[float]):
    steps = schedule("multi_step", milestones=milestones, unit=unit, gamma=0.1)
    assert [steps.factor(step) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_warm_up_takes_at_most_half_of_a_short_run_and_says_so(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr("frtrain.training.schedule.log.info", lambda text, *values: said.append(text % values))
    assert schedule("cosine", total_steps=4, warmup=3, final=0.0).factor(2) == 1.0
    assert said == ["warm-up shortened from 30 to 2 steps, half of the run"]
    schedule("cosine", total_steps=100, warmup=3, final=0.0)
    assert len(said) == 1


def test_a_warm_up_given_as_a_share_is_taken_at_its_word():
    assert schedule("constant", total_steps=4, warmup=1, warmup_unit="progress").factor(2) == 0.75


@pytest.mark.parametrize(
    ("name", "parameters", "complaint"),
    [
        (
            "multi_step",
            {"milestones": [0.7, 0.5], "unit": "progress", "gamma": 0.1},
            r"scheduler\.milestones.*must rise",
        ),
        (
            "multi_step",
            {"milestones": [10, 20], "unit": "progress", "gamma": 0.1},
            r"scheduler\.milestones=20.0 is a share of the run",
        ),
        ("constant", {"warmup": 5, "warmup_unit": "progress"}, r"scheduler\.warmup=5.* is a share of the run"),
        ("one_cycle", {**ONE_CYCLE, **MOMENTA, "warmup": 5}, r"scheduler\.warmup=5.* is a share of the run"),
        (
            "one_cycle",
            {**ONE_CYCLE, **MOMENTA, "lowest_momentum": 0.99},
            r"scheduler\.lowest_momentum=0\.99 is above scheduler\.highest_momentum=0\.95",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(name: str, parameters: dict[str, object], complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        schedule(name, **parameters)
