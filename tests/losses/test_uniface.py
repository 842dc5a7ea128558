import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES


@pytest.mark.parametrize(("clamp", "expected"), [(False, 74.182800), (True, 66.905196)])
def test_mean_loss_is_the_golden_value(clamp, expected, golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("uniface", clamp=clamp).double(), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def formula(spec, b, cosines, label):
    s, m = spec["scale"], spec["margin"]

    def softplus(a):
        if spec["clamp"]:
            a = min(max(a, -s), s)
        return max(a, 0) + math.log1p(math.exp(-abs(a)))

    genuine = softplus(-(s * (cosines[label] - m) - b))
    impostor = sum(softplus(s * cosine - b) for j, cosine in enumerate(cosines) if j != label)
    return genuine + spec["negative_weight"] * impostor


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("changes", [{}, {"margin": 0}, {"scale": 8, "negative_weight": 0.3}, {"margin": 0.8}])
@pytest.mark.parametrize("threshold", [-3.0, 4.1, 30.0])
def test_loss_is_the_formula_of_its_paper(changes, clamp, threshold, golden, loss_spec, make_head, dense):
    embedding, centres, labels = golden
    spec = {**loss_spec("uniface"), **changes, "clamp": clamp}
    classifier = dense(make_head("uniface", **changes, clamp=clamp).double(), centres)
    with torch.no_grad():
        classifier.head.threshold.fill_(threshold)
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    losses = [formula(spec, threshold, row, label) for row, label in zip(cosines, labels.tolist(), strict=True)]
    assert classifier(embedding, labels)[0].item() == pytest.approx(sum(losses) / len(losses), abs=1e-9)


def test_threshold_starts_where_all_wrong_classes_together_weigh_a_tenth(make_head):
    head = make_head("uniface")
    head.set_up(10_000)
    assert head.threshold.item() == pytest.approx(math.log(100_000), rel=1e-6)
    right_angles = torch.zeros(1, 10_000)
    assert head.others(right_angles, ()).sum().item() == pytest.approx(0.1, rel=1e-3)


def test_threshold_is_one_learned_number_without_dimensions(make_head):
    parameters = dict(make_head("uniface").named_parameters())
    assert list(parameters) == ["threshold"]
    assert parameters["threshold"].dim() == 0


def test_threshold_gets_the_gradient_of_the_loss(faces, loss_spec, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("uniface").double(), centres)
    classifier(embedding, labels)[0].backward()
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    rows = list(zip(cosines, labels.tolist(), strict=True))
    b, step = math.log(70), 1e-5
    up, down = (
        sum(formula(loss_spec("uniface"), b + sign * step, row, label) for row, label in rows) / len(rows)
        for sign in (1, -1)
    )
    assert classifier.head.threshold.grad.item() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_threshold_is_shown_as_a_cosine(faces, make_head, dense):
    embedding, centres, labels = faces
    _, facts = dense(make_head("uniface"), centres)(embedding, labels)
    assert facts.diagnostics["threshold"].item() == pytest.approx(math.log(70) / 64)


def test_clamp_stops_the_gradient_of_the_worst_samples(make_head):
    for clamp, expected in [(False, -64.0), (True, 0.0)]:
        own = torch.tensor([-0.9], requires_grad=True)
        make_head("uniface", clamp=clamp).target(own, ()).sum().backward()
        assert own.grad.item() == pytest.approx(expected)


@pytest.mark.parametrize(("key", "value"), [("scale", 0), ("margin", -0.1), ("negative_weight", 0), ("clamp", 1)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("uniface"), key: value})
