"""Mean losses on fixed inputs: published code or an independent transcription gave the same numbers."""

import math

import pytest
import torch

GOLDEN = [
    ("softmax", {"bias": False}, 2.161895),
    ("normface", {"scale": 32, "learn_scale": False}, 18.735292),
    ("normface", {"scale": 32, "learn_scale": True}, 18.735292),
    ("cosface", {"scale": 32, "margin": 0.35}, 25.785748),
    ("am_softmax", {"scale": 32, "margin": 0.35}, 25.785748),
    ("arcface", {"scale": 32, "beyond_pi": "none"}, 23.986948),
    ("arcface", {"scale": 32, "beyond_pi": "classic"}, 26.358134),
    ("arcface", {"scale": 32, "beyond_pi": "easy"}, 20.770668),
    ("arcface", {"scale": 32, "beyond_pi": "none", "margin_gradient": "detached"}, 23.986948),
    ("sv_softmax", {"margin_kind": "none"}, 23.882478),
    ("sv_softmax", {}, 35.605297),
    ("sv_arc_softmax", {"beyond_pi": "none"}, 31.204382),
]


@pytest.mark.parametrize(("config", "changes", "expected"), GOLDEN)
def test_mean_loss_is_the_golden_value(config, changes, expected, golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head(config, **changes), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_golden_cosines_are_the_published_ones(golden):
    embedding, centres, _ = golden
    cosines = torch.nn.functional.cosine_similarity(embedding[:, None], centres[None], dim=2)
    assert cosines[3].tolist() == pytest.approx(
        [0.587875, 0.263536, -0.172490, -0.990876, 0.368911, -0.196494], abs=1e-6
    )


def test_golden_support_vectors_are_counted_as_published(golden, make_head, dense):
    embedding, centres, labels = golden
    shares = []
    for config, changes in [("sv_softmax", {"margin_kind": "none"}), ("sv_softmax", {}), ("sv_arc_softmax", {})]:
        changes = {**changes, "beyond_pi": "none"}
        _, facts = dense(make_head(config, **changes), centres)(embedding, labels)
        shares.append(facts.diagnostics["support_vectors"].item() * 4 * 5)
    assert shares == pytest.approx([8, 12, 13])


def softmax_term(logits: list[float], label: int) -> float:
    largest = max(logits)
    return math.log(sum(math.exp(z - largest) for z in logits)) + largest - logits[label]


def formula(name: str, spec: dict, angles: list[float], label: int) -> float:
    """The loss of one sample from its angles, straight from the paper, with arccos and loops."""
    s, m, theta = spec["scale"], spec.get("margin", 0.0), angles[label]
    arc = math.cos(theta + m) if theta + m <= math.pi else math.cos(theta) - (1 - math.cos(m))
    margined = {
        "normface": math.cos(theta),
        "cosface": math.cos(theta) - m,
        "arcface": arc,
        "sv_softmax": {"none": math.cos(theta), "am": math.cos(theta) - m, "arc": arc}[spec.get("margin_kind", "none")],
    }[name]
    exponents = []
    for k, angle in enumerate(angles):
        cosine = math.cos(angle)
        reweight = s * (spec["t"] - 1) * (cosine + 1) if name == "sv_softmax" and cosine > margined else 0.0
        exponents.append(s * margined if k == label else s * cosine + reweight)
    return softmax_term(exponents, label)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        ("normface", {}),
        ("cosface", {}),
        ("arcface", {}),
        ("arcface", {"margin": 1.2}),
        ("sv_softmax", {}),
        ("sv_softmax", {"t": 1.4, "margin_kind": "none"}),
        ("sv_arc_softmax", {}),
    ],
)
def test_loss_is_the_formula_of_its_paper(config, changes, golden, loss_spec, make_head, dense):
    embedding, centres, labels = golden
    spec = {**loss_spec(config), **changes}
    expected = 0.0
    for vector, label in zip(embedding.tolist(), labels.tolist(), strict=True):
        cosines = [
            sum(a * b for a, b in zip(vector, centre, strict=True)) / (math.hypot(*vector) * math.hypot(*centre))
            for centre in centres.tolist()
        ]
        expected += formula(spec["name"], spec, [math.acos(cosine) for cosine in cosines], label) / len(embedding)
    loss, _ = dense(make_head(config, **changes), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected, abs=1e-9)
