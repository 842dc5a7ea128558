import pytest

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES


def test_every_configuration_builds_its_loss(loss_config, loss_spec):
    spec = loss_spec(loss_config)
    assert isinstance(LOSSES.build(spec), LOSSES.get(spec["name"]).factory)


def test_every_loss_has_a_configuration_of_its_name(loss, loss_spec):
    assert loss_spec(loss)["name"] == loss


def test_every_other_name_of_a_loss_has_a_configuration(loss, loss_spec):
    entry = LOSSES.get(loss)
    assert all(LOSSES.get(loss_spec(alias)["name"]) is entry for alias in entry.aliases)


def test_am_softmax_is_cosface_with_the_scale_of_its_authors(loss_spec):
    assert LOSSES.get("am_softmax") is LOSSES.get("cosface")
    assert loss_spec("am_softmax") == {**loss_spec("cosface"), "scale": 30}


def test_sv_arc_softmax_is_sv_softmax_on_the_margin_of_arcface(loss_spec):
    expected = {**loss_spec("sv_softmax"), "margin_kind": "arc", "margin": loss_spec("arcface")["margin"]}
    assert loss_spec("sv_arc_softmax") == expected


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        ("arcface", "margin", -0.1),
        ("arcface", "margin", 28.6),
        ("arcface", "scale", 0),
        ("arcface", "beyond_pi", "smooth"),
        ("arcface", "margin_gradient", True),
        ("cosface", "margin", -0.35),
        ("cosface", "margin", "0.35"),
        ("sv_softmax", "margin", -0.35),
        ("sv_softmax", "t", 0.2),
        ("sv_softmax", "margin_kind", "cos"),
        ("sv_softmax", "beyond_pi", "easy"),
        ("normface", "scale", -1),
        ("softmax", "bias", "no"),
        ("arcface", "scale", 1e30),
        ("sphereface", "margin", 1000),
        ("subcenter_arcface", "sub_centres", 10**9),
        ("sv_softmax", "t_warmup_steps", 10**20),
    ],
)
def test_impossible_value_is_an_error_that_names_the_key(config, key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec(config), key: value})


def test_unknown_parameter_is_an_error_with_a_suggestion(loss_spec):
    with pytest.raises(ConfigError, match="did you mean 'margin'"):
        LOSSES.build({**loss_spec("cosface"), "margn": 0.4})


def test_unknown_loss_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'arcface'"):
        LOSSES.build({"name": "archface"})
