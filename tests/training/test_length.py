from __future__ import annotations

import pytest

from frtrain.commands.composition import group_defaults
from frtrain.config import TrainerConfig
from frtrain.errors import ConfigError
from frtrain.schema import parse
from frtrain.training.length import RunLength, Unit


def length(images: int = 1000, **given: object) -> RunLength:
    ends = {"epochs": None, "max_steps": None, "max_samples": None}
    values = {**group_defaults("trainer", "default"), **ends, "batch_size": 8, "accumulate": 2, **given}
    return RunLength.of(parse(TrainerConfig, values, "trainer"), images)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"epochs": 2}, 125),
        ({"epochs": 0.5}, 32),
        ({"max_steps": 7}, 7),
        ({"max_samples": 160}, 10),
        ({"max_samples": 161}, 11),
        ({"max_samples": 1}, 1),
        ({"epochs": 2, "max_steps": 7, "max_samples": 160}, 7),
        ({"epochs": 2, "max_steps": 7, "max_samples": 33}, 3),
        ({"epochs": 0.1, "max_steps": 70, "max_samples": 1600}, 7),
    ],
)
def test_a_run_ends_with_what_comes_first_in_whole_steps(given: dict[str, object], steps: int):
    assert length(**given).steps == steps


def test_a_run_without_an_end_is_refused():
    with pytest.raises(ConfigError, match=r"trainer\.epochs, trainer\.max_steps or trainer\.max_samples must be set"):
        length()


@pytest.mark.parametrize(
    ("amount", "unit", "steps"), [(2, "epochs", 125), (2, "steps", 2), (48, "samples", 3), (0.3, "progress", 30)]
)
def test_an_amount_is_counted_in_every_unit(amount: float, unit: Unit, steps: float):
    assert length(max_steps=100).in_steps(amount, unit) == pytest.approx(steps)
