import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES


def margined(cosine: float, m: float, rule: str) -> float:
    theta = math.acos(cosine)
    if rule == "easy" and cosine <= 0:
        return cosine
    if theta + m <= math.pi or rule == "none":
        return math.cos(theta + m)
    return {"continuous": cosine - (1 - math.cos(m)), "classic": cosine - m * math.sin(m), "clip": -1.0}[rule]


def formula(spec: dict, cosines: list[float], label: int) -> float:
    rule = spec["beyond_pi"]
    threshold = margined(cosines[label], spec["mask_margin"], "none" if rule == "easy" else rule)
    hard = [cosine for j, cosine in enumerate(cosines) if j != label and cosine > threshold]
    m = spec["margin"] + spec["margin_slope"] * (sum(hard) / len(hard) if hard else 0)
    logits = []
    for j, cosine in enumerate(cosines):
        raised = spec["t"] * cosine + spec["a"] if cosine > threshold else cosine
        logits.append(spec["scale"] * (margined(cosine, m, rule) if j == label else raised))
    largest = max(logits)
    return math.log(sum(math.exp(z - largest) for z in logits)) + largest - logits[label]


@pytest.mark.parametrize("rule", ["continuous", "classic", "clip", "none", "easy"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"scale": 32, "mask_margin": 0.35}, {"margin": 0.6, "margin_slope": 0.6}, {"t": 1.3, "a": 0, "scale": 8}],
)
def test_loss_is_the_formula_of_its_paper(rule, changes, golden, loss_spec, make_head, dense):
    embedding, centres, labels = golden
    spec = {**loss_spec("npcface"), **changes, "beyond_pi": rule}
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    losses = [formula(spec, row, label) for row, label in zip(cosines, labels.tolist(), strict=True)]
    loss, _ = dense(make_head("npcface", **changes, beyond_pi=rule), centres)(embedding, labels)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-9)


@pytest.mark.parametrize("beyond_pi", ["continuous", "easy"])
def test_without_weights_and_slope_it_is_arcface(beyond_pi, faces, make_head, dense):
    embedding, centres, labels = faces
    plain = make_head("npcface", t=1, a=0, margin_slope=0, beyond_pi=beyond_pi)
    parent = make_head("arcface", margin=0.4, beyond_pi=beyond_pi)
    torch.testing.assert_close(
        dense(plain, centres)(embedding, labels)[0], dense(parent, centres)(embedding, labels)[0]
    )


def test_margin_grows_with_the_mean_cosine_of_hard_classes(make_head, surveyed_row):
    head = make_head("npcface")
    similarity = torch.tensor([[0.5, 0.9, 0.1, -0.5], [0.5, 0.9, 0.7, -0.5], [0.9, 0.3, 0.2, 0.1]]).double()
    row = surveyed_row(head, similarity, similarity[:, 0])
    # cos(acos(0.5) + 0.5) = 0.024: the own class, 0.5, is above it but not counted; the last sample has no hard class.
    assert row.margin.tolist() == pytest.approx([0.4 + 0.2 * 0.5, 0.4 + 0.2 * 0.8, 0.4])


def test_class_exactly_at_the_threshold_is_not_hard(make_head, surveyed_row):
    head = make_head("npcface", mask_margin=0)
    similarity = torch.tensor([[0.5, 0.5, 0.75]], dtype=torch.float64)
    row = surveyed_row(head, similarity, similarity[:, 0])
    assert head.others(similarity, row)[0, 1:].tolist() == pytest.approx([0.5, 1.1 * 0.75 + 0.2])
    assert row.margin.item() == pytest.approx(0.4 + 0.2 * 0.75)


def test_margin_and_switch_are_constants_to_the_gradient(make_head, surveyed_row):
    head = make_head("npcface")
    similarity = torch.tensor([[0.5, 0.9, 0.1, -0.5]], dtype=torch.float64, requires_grad=True)
    own = similarity[:, 0]
    row = surveyed_row(head, similarity, own)
    (head.target(own, row).sum() + head.others(similarity, row)[:, 1:].sum()).backward()
    theta = math.acos(0.5)
    assert not row.margin.requires_grad
    assert not row.threshold.requires_grad
    slope = math.sin(theta + 0.5) / math.sin(theta)
    assert similarity.grad[0].tolist() == pytest.approx([slope, 1.1, 1.1, 1.0])


def test_hard_classes_are_never_lowered(make_head, surveyed_row):
    head = make_head("npcface")
    similarity = torch.linspace(-1, 1, 41, dtype=torch.float64)[None]
    row = surveyed_row(head, similarity, torch.tensor([-0.99], dtype=torch.float64))
    assert (head.others(similarity, row) >= similarity).all()


def test_margin_and_share_of_hard_classes_are_told(make_head, dense):
    centres = torch.eye(3, dtype=torch.float64)
    embedding = torch.tensor([[0.6, 0.8, 0.0]], dtype=torch.float64)
    _, facts = dense(make_head("npcface"), centres)(embedding, torch.tensor([0]))
    assert facts.diagnostics["support_vectors"].item() == pytest.approx(1 / 2)
    assert facts.diagnostics["margin"].item() == pytest.approx(0.4 + 0.2 * 0.8)


@pytest.mark.parametrize(
    ("key", "value"), [("scale", 0), ("margin", -0.1), ("mask_margin", 4.0), ("t", 0.9), ("a", -0.1), ("margin", "0.4")]
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("npcface"), key: value})


@pytest.mark.parametrize(("margin", "slope"), [(0.2, 0.3), (2.0, 1.5)])
def test_margins_outside_zero_and_pi_are_an_error_that_names_the_keys(margin, slope, loss_spec):
    with pytest.raises(ConfigError, match=rf"margin_slope={slope}.*margin={margin}"):
        LOSSES.build({**loss_spec("npcface"), "margin": margin, "margin_slope": slope})
