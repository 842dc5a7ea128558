from __future__ import annotations

from typing import Literal

import pytest

from frtrain.errors import ConfigError
from frtrain.registry import Registry
from frtrain.schema import NonNegative, PositiveInt, Section, parse


class Inner(Section):
    batch_size: PositiveInt
    rate: NonNegative


class Outer(Section):
    trainer: Inner
    name: str
    workers: Literal["auto"] | PositiveInt = "auto"
    widths: list[PositiveInt] = [1]  # noqa: RUF012 (pydantic copies it)


VALUES = {"trainer": {"batch_size": 8, "rate": 0.5}, "name": "run"}


def changed(**trainer: object) -> dict[str, object]:
    return {"name": "run", "trainer": {"batch_size": 8, "rate": 0.5, **trainer}}


def test_right_values_become_a_section():
    assert parse(Outer, VALUES).trainer.batch_size == 8


def test_an_integer_is_accepted_where_a_float_is_asked_for():
    assert parse(Outer, changed(rate=1)).trainer.rate == 1.0


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"batch_size": 0}, r"trainer\.batch_size=0: must be greater than 0"),
        ({"batch_size": "many"}, r"trainer\.batch_size='many': must be a valid integer"),
        ({"batch_size": 1.5}, r"trainer\.batch_size=1\.5"),
        ({"batch_size": True}, r"trainer\.batch_size=True"),
        ({"rate": float("nan")}, r"trainer\.rate=nan"),
        ({"rate": -0.1}, r"trainer\.rate=-0\.1: must be greater than or equal to 0"),
        ({"batchsize": 3}, r"trainer\.batchsize: unknown key; did you mean 'batch_size'\?"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_full_key(trainer: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        parse(Outer, changed(**trainer))


def test_a_value_that_fits_no_branch_of_a_union_is_told_in_one_line():
    with pytest.raises(ConfigError, match=r"^workers='foo': must be 'auto' or must be a valid integer$"):
        parse(Outer, {**VALUES, "workers": "foo"})


def test_a_wrong_element_of_a_list_is_named_by_its_position():
    with pytest.raises(ConfigError, match=r"^widths\.1=0: must be greater than 0$"):
        parse(Outer, {**VALUES, "widths": [3, 0]})


def test_every_wrong_key_is_named_at_once():
    with pytest.raises(ConfigError, match=r"(?s)batch_size.*rate"):
        parse(Outer, changed(batch_size=0, rate=-1.0))


def test_a_missing_key_is_named():
    with pytest.raises(ConfigError, match="name: a value is required"):
        parse(Outer, {"trainer": VALUES["trainer"]})


COMPONENTS: Registry[object] = Registry("loss")


@COMPONENTS.register("cosface", "am_softmax")
class Component:
    def __init__(self, classes: int, scale: PositiveInt, margin: NonNegative = 0.35):
        if margin > scale:
            raise ValueError("margin exceeds scale")
        self.classes, self.scale, self.margin = classes, scale, margin


def test_a_component_is_built_from_its_name_and_parameters():
    built = COMPONENTS.build({"name": "cosface", "scale": 64, "margin": 0.4}, classes=10)
    assert (built.classes, built.scale, built.margin) == (10, 64, 0.4)


def test_an_alias_builds_the_same_component():
    assert isinstance(COMPONENTS.build({"name": "am_softmax", "scale": 30}, classes=2), Component)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigError, match="loss=cosfaec: unknown loss; did you mean 'cosface'"):
        COMPONENTS.build({"name": "cosfaec"}, classes=2)


def test_an_unknown_parameter_names_its_key():
    with pytest.raises(ConfigError, match=r"loss\.margn: unknown key; did you mean 'margin'"):
        COMPONENTS.build({"name": "cosface", "scale": 64, "margn": 0.4}, classes=2)


def test_a_negative_margin_names_its_key():
    with pytest.raises(ConfigError, match=r"loss\.margin=-0\.1"):
        COMPONENTS.build({"name": "cosface", "scale": 64, "margin": -0.1}, classes=2)


def test_a_value_the_constructor_refuses_is_a_configuration_error():
    with pytest.raises(ConfigError, match="loss=cosface: margin exceeds scale"):
        COMPONENTS.build({"name": "cosface", "scale": 1, "margin": 2.0}, classes=2)


def test_what_the_program_gives_cannot_be_set_by_configuration():
    with pytest.raises(ConfigError, match=r"loss\.classes: unknown key"):
        COMPONENTS.build({"name": "cosface", "scale": 1, "classes": 3}, classes=2)


def test_a_name_cannot_be_registered_twice():
    with pytest.raises(ValueError, match="registered twice"):
        COMPONENTS.register("other", "cosface")(Component)
