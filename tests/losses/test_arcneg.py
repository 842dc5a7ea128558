import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES


def margined(cosine: float, m: float, rule: str) -> float:
    theta = math.acos(cosine)
    if theta + m <= math.pi or rule == "none":
        return math.cos(theta + m)
    return {"continuous": cosine - (1 - math.cos(m)), "classic": cosine - m * math.sin(m), "clip": -1.0}[rule]


@pytest.mark.parametrize(
    "changes",
    [{}, {"beyond_pi": "classic"}, {"beyond_pi": "none", "alpha": 1.5}, {"margin": 0}, {"scale": 8, "margin": 1.2}],
)
def test_loss_is_the_formula_of_its_paper(changes, golden, loss_spec, make_head, dense):
    embedding, centres, labels = golden
    spec = {**loss_spec("arcneg"), **changes}
    expected = 0.0
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    for row, label in zip(cosines, labels.tolist(), strict=True):
        a = margined(row[label], spec["margin"], spec["beyond_pi"])
        logits = []
        for j, cosine in enumerate(row):
            t = spec["alpha"] * math.exp(-((cosine - a) ** 2) / 2)
            logits.append(spec["scale"] * (a if j == label else t * cosine + t - 1))
        expected += math.log(sum(math.exp(z - logits[label]) for z in logits)) / len(embedding)
    loss, _ = dense(make_head("arcneg", **changes), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.fixture
def others_at(make_head, make_samples):
    """others_at(a [1], cosines, **changes): leaf and N of wrong classes where the margined target is a."""

    def others(a, cosines, **changes):
        head = make_head("arcneg", margin=0, **changes)
        similarity = torch.tensor([cosines], dtype=torch.float64, requires_grad=True)
        row = head.row(make_samples(torch.tensor([a], dtype=torch.float64)))
        return similarity, head.others(similarity, row)

    return others


def test_gradient_to_a_wrong_class_is_its_weight_held_constant(others_at):
    similarity, others = others_at(0.3, [0.9, 0.3, -0.5])
    others.sum().backward()
    weights = [1.2 * math.exp(-((cosine - 0.3) ** 2) / 2) for cosine in (0.9, 0.3, -0.5)]
    assert similarity.grad[0].tolist() == pytest.approx(weights)


def test_wrong_class_at_the_target_has_the_largest_weight(others_at):
    _, others = others_at(0.3, [0.3])
    assert others.item() == pytest.approx(1.2 * 0.3 + 0.2)


def test_classes_near_the_target_are_raised_and_the_others_lowered(others_at):
    reach = math.sqrt(2 * math.log(1.2))
    cosines, others = others_at(0.1, [0.1 + reach - 0.01, 0.1 - reach + 0.01, 0.1 + reach + 0.01, 0.1 - reach - 0.01])
    assert (others > cosines).tolist() == [[True, True, False, False]]


def test_target_has_no_gradient_through_the_weights(make_head, make_samples):
    own = torch.tensor([0.5], requires_grad=True)
    assert not make_head("arcneg").row(make_samples(own)).margined.requires_grad


def test_mean_weight_is_told(make_head, dense):
    centres = torch.eye(3, dtype=torch.float64)
    embedding = torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64)
    _, facts = dense(make_head("arcneg", margin=0), centres)(embedding, torch.tensor([0]))
    expected = (1.2 * math.exp(-(0.2**2) / 2) + 1.2 * math.exp(-(0.6**2) / 2)) / 2
    assert facts.diagnostics["t"].item() == pytest.approx(expected)


@pytest.mark.parametrize(("key", "value"), [("scale", 0), ("margin", -0.1), ("alpha", 0), ("beyond_pi", "smooth")])
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("arcneg"), key: value})
