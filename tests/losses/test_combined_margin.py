import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.errors import ConfigError

RULES = ["continuous", "classic", "clip", "none", "easy"]
ANGLES = torch.linspace(0.05, math.pi - 0.05, 101, dtype=torch.float64)


def target(head, angles):
    return head.target(angles.cos(), ())


def by_hand(theta: float, m_mul: float, m_arc: float, m_cos: float, rule: str) -> float:
    total = m_mul * theta + m_arc
    if rule == "easy" and theta >= math.pi / 2:
        return math.cos(theta) - m_cos
    if total <= math.pi or rule in ("none", "easy"):
        return math.cos(total) - m_cos
    boundary = (math.pi - m_arc) / m_mul
    return {
        "continuous": math.cos(theta) - math.cos(boundary) - 1,
        "classic": math.cos(theta) - (math.pi - boundary) * math.sin(math.pi - boundary),
        "clip": -1.0,
    }[rule] - m_cos


@pytest.mark.parametrize("rule", ["continuous", "none"])
def test_mean_loss_is_the_golden_value(rule, golden, make_head, dense):
    embedding, centres, labels = golden
    head = make_head("combined_margin", scale=32, m_mul=0.9, m_arc=0.4, m_cos=0.15, beyond_pi=rule)
    assert dense(head, centres)(embedding, labels)[0].item() == pytest.approx(24.830707, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("margins", [(1.0, 0.3, 0.2), (0.9, 0.4, 0.15), (1.35, 0.0, 0.0), (1.2, 0.4, 0.1)])
def test_loss_is_the_formula(rule, margins, golden, make_head, dense):
    embedding, centres, labels = golden
    m_mul, m_arc, m_cos = margins
    cosines = F.cosine_similarity(embedding[:, None], centres, dim=2)
    expected = 0.0
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        logits = [64 * c for c in row]
        logits[label] = 64 * by_hand(math.acos(row[label]), m_mul, m_arc, m_cos, rule)
        expected += math.log(sum(math.exp(z - logits[label]) for z in logits)) / len(labels)
    head = make_head("combined_margin", m_mul=m_mul, m_arc=m_arc, m_cos=m_cos, beyond_pi=rule)
    assert dense(head, centres)(embedding, labels)[0].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mode", ["exact", "detached"])
def test_with_its_angular_margin_alone_it_is_arcface_bit_for_bit(rule, mode, make_head):
    switches = {"beyond_pi": rule, "margin_gradient": mode}
    combined = make_head("combined_margin", m_mul=1, m_arc=0.5, m_cos=0, **switches)
    assert torch.equal(target(combined, ANGLES), target(make_head("arcface", margin=0.5, **switches), ANGLES))


@pytest.mark.parametrize("rule", RULES)
def test_with_its_cosine_margin_alone_it_is_cosface_under_every_rule(rule, make_head):
    combined = make_head("combined_margin", m_mul=1, m_arc=0, m_cos=0.35, beyond_pi=rule)
    assert torch.equal(target(combined, ANGLES), target(make_head("cosface", margin=0.35), ANGLES))


@pytest.mark.parametrize("rule", RULES)
def test_factor_near_one_is_near_arcface_under_every_rule(rule, make_head):
    near = make_head("combined_margin", m_mul=1 + 1e-9, m_arc=0.5, m_cos=0, beyond_pi=rule)
    torch.testing.assert_close(
        target(near, ANGLES), target(make_head("arcface", beyond_pi=rule), ANGLES), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("margins", [(1.0, 0.5), (0.9, 0.6), (1.35, 0.0), (1.35, 0.5), (4.0, 0.0)])
def test_continuous_rule_falls_all_the_way_without_a_jump(margins, make_head):
    m_mul, m_arc = margins
    head = make_head("combined_margin", m_mul=m_mul, m_arc=m_arc)
    steps = target(head, torch.linspace(0.05, math.pi - 0.05, 10001, dtype=torch.float64)).diff()
    assert (steps < 0).all()
    assert steps.min() > -0.005


def test_clip_rule_is_minus_one_before_the_cosine_margin(make_head):
    head = make_head("combined_margin", m_mul=1.35, m_arc=0.3, m_cos=0.2, beyond_pi="clip")
    assert target(head, torch.tensor([3.0])).item() == pytest.approx(-1.2)


def test_all_three_margins_act_at_once(faces, make_head, dense):
    embedding, centres, labels = faces
    settings = [(0.9, 0.4, 0.15), (1.0, 0.4, 0.15), (0.9, 0.3, 0.15), (0.9, 0.4, 0.0)]
    losses = {
        dense(make_head("combined_margin", m_mul=a, m_arc=b, m_cos=c), centres)(embedding, labels)[0].item()
        for a, b, c in settings
    }
    assert len(losses) == 4


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("m_mul", [0.9, 1.2])
def test_detached_margin_has_the_same_bits_and_slope_one(rule, m_mul, make_head):
    values, slopes = [], []
    for mode in ("exact", "detached"):
        cosine = ANGLES.cos().requires_grad_()
        head = make_head("combined_margin", m_mul=m_mul, beyond_pi=rule, margin_gradient=mode)
        values.append(head.target(cosine, ()))
        slopes.append(torch.autograd.grad(values[-1].sum(), cosine)[0])
    assert torch.equal(*values)
    assert (slopes[1] == 1).all()


def test_exact_slope_is_the_ratio_of_sines_times_the_factor(make_head):
    angles = ANGLES[math.pi > 0.9 * ANGLES + 0.4]
    cosine = angles.cos().requires_grad_()
    head = make_head("combined_margin", m_mul=0.9, m_arc=0.4)
    (slope,) = torch.autograd.grad(head.target(cosine, ()).sum(), cosine)
    torch.testing.assert_close(slope, 0.9 * (0.9 * angles + 0.4).sin() / angles.sin())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("m_mul", [0.5, 0.9, 1.0, 1.4])
def test_poles_are_finite_in_float32(rule, m_mul, make_head):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    value = make_head("combined_margin", m_mul=m_mul, beyond_pi=rule).target(cosine, ())
    (slope,) = torch.autograd.grad(value.sum(), cosine)
    assert value.isfinite().all()
    assert slope.abs().max() < 3000


@pytest.mark.parametrize("rule", RULES)
def test_warm_up_starts_without_any_of_the_margins(rule, make_head):
    head = make_head("combined_margin", m_mul=1.2, m_arc=0.3, m_cos=0.2, beyond_pi=rule)
    head.warm_up_margin(10)
    torch.testing.assert_close(target(head, ANGLES), ANGLES.cos())


def test_easy_rule_refuses_margins_that_pass_pi_before_it_spares_anybody(make_head):
    with pytest.raises(ConfigError, match=r"beyond_pi=easy .*m_mul=1\.9 and m_arc=0\.3"):
        make_head("combined_margin", m_mul=1.9, beyond_pi="easy")


@pytest.mark.parametrize(("key", "value"), [("m_mul", 0), ("m_arc", -0.1), ("m_arc", 28.6), ("m_cos", -0.2)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("combined_margin", **{key: value})
