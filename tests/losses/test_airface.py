import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES


def test_mean_loss_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("airface"), centres)(embedding, labels)
    assert loss.item() == pytest.approx(40.547418, abs=1e-6)


@pytest.mark.parametrize("changes", [{}, {"margin": 0}, {"scale": 8, "margin": 1.2}])
def test_loss_is_the_formula_of_its_paper(changes, golden, loss_spec, make_head, dense):
    embedding, centres, labels = golden
    spec = {**loss_spec("airface"), **changes}
    expected = 0.0
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    for row, label in zip(cosines, labels.tolist(), strict=True):
        angles = [math.acos(cosine) + (spec["margin"] if j == label else 0) for j, cosine in enumerate(row)]
        logits = [spec["scale"] * (math.pi - 2 * angle) / math.pi for angle in angles]
        expected += (math.log(sum(math.exp(z - logits[label]) for z in logits))) / len(embedding)
    loss, _ = dense(make_head("airface", **changes), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_target_is_linear_in_the_angle_and_falls_beyond_pi(make_head):
    angles = torch.linspace(0.05, math.pi - 0.05, 40, dtype=torch.float64)
    target = make_head("airface", margin=0.45).target(angles.cos(), ())
    torch.testing.assert_close(target, 1 - 2 * (angles + 0.45) / math.pi)
    assert (target.diff() < 0).all()


def test_own_class_without_margin_is_treated_like_any_other(make_head):
    cosines = torch.linspace(-1, 1, 21)
    head = make_head("airface", margin=0)
    assert torch.equal(head.target(cosines, ()), head.others(cosines[None], ())[0])


def test_gradient_at_the_poles_is_bounded_in_float32(make_head):
    head = make_head("airface")
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosines = torch.tensor([1 + 4e-7, 1.0, near, -near, -1.0, -1 - 4e-7], requires_grad=True)
    (head.target(cosines, ()) + head.others(cosines[None], ())[0]).sum().backward()
    assert (cosines.grad > 0).all()
    assert cosines.grad.max() < 2 * 46


def test_wrong_class_at_a_pole_is_almost_plus_or_minus_one(make_head):
    poles = torch.tensor([[1.0, -1.0]])
    assert make_head("airface").others(poles, ())[0].tolist() == pytest.approx([1, -1], abs=0.005)


@pytest.mark.parametrize(("key", "value"), [("scale", 0), ("margin", -0.1), ("margin", 25.8)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("airface"), key: value})
