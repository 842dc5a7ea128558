import logging
import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.errors import ConfigError


def margin_of(length: float) -> float:
    return 0.45 + (0.8 - 0.45) / (110 - 10) * (min(max(length, 10), 110) - 10)


def g(length: float) -> float:
    length = min(max(length, 10), 110)
    return 1 / length + length / 110**2


@pytest.fixture
def long_faces(golden):
    """The golden faces, long enough for the range of MagFace: 9 to 60."""
    embedding, centres, labels = golden
    return 20 * embedding, centres, labels


def test_cross_entropy_is_the_golden_value(long_faces, make_head, dense):
    embedding, centres, labels = long_faces
    loss, _ = dense(make_head("magface", beyond_pi="classic", lambda_g=0), centres)(embedding, labels)
    assert loss.item() == pytest.approx(54.057928, abs=1e-6)


def test_quality_term_is_the_golden_value(long_faces, make_head):
    norm = long_faces[0].norm(dim=1)
    assert make_head("magface").quality_term(norm).mean().item() == pytest.approx(0.033263, abs=1e-6)


@pytest.mark.parametrize("lengthened", [1, 20, 60, 1000])
@pytest.mark.parametrize("rule", ["continuous", "none", "easy"])
def test_loss_is_the_formula(lengthened, rule, golden, make_head, dense):
    embedding, centres, labels = golden
    embedding = lengthened * embedding
    cosines = F.cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    expected = 0.0
    for vector, row, label in zip(embedding.tolist(), cosines, labels.tolist(), strict=True):
        length = math.hypot(*vector)
        theta, m = math.acos(row[label]), margin_of(length)
        margined = math.cos(theta + m)
        if rule == "continuous" and theta + m > math.pi:
            margined = row[label] - 1 + math.cos(m)
        if rule == "easy" and row[label] <= 0:
            margined = row[label]
        logits = [64 * c for c in row]
        logits[label] = 64 * margined
        expected += math.log(sum(math.exp(z - logits[label]) for z in logits)) + 35 * g(length)
    loss, _ = dense(make_head("magface", beyond_pi=rule), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected / len(labels), abs=1e-9)


@pytest.mark.parametrize(("length", "margin"), [(1, 0.45), (10, 0.45), (60, 0.625), (110, 0.8), (500, 0.8)])
def test_margin_grows_with_the_length_between_its_ends(length, margin, make_head, make_samples):
    row = make_head("magface").row(make_samples(torch.zeros(1), float(length)))
    assert row.margin.item() == pytest.approx(margin)


def test_equal_margins_and_no_quality_term_are_arcface(long_faces, make_head, dense):
    embedding, centres, labels = long_faces
    head = make_head("magface", smallest_margin=0.5, largest_margin=0.5, lambda_g=0)
    loss, _ = dense(head, centres)(embedding, labels)
    torch.testing.assert_close(loss, dense(make_head("arcface"), centres)(embedding, labels)[0])


def test_gradient_is_that_of_the_loss_where_the_length_matters(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("magface"), centres)
    embedding = 20 * embedding
    assert ((embedding.norm(dim=1) > 10) & (embedding.norm(dim=1) < 110)).sum() >= 5

    def of(embedding, centres):
        return torch.func.functional_call(classifier, {"centres": centres}, (embedding, labels))[0]

    assert torch.autograd.gradcheck(of, (embedding.requires_grad_(), centres.requires_grad_()))


def test_margin_and_quality_term_both_carry_gradient_to_the_length(make_head, make_samples):
    head = make_head("magface")
    norm = torch.tensor([5.0, 50.0, 200.0], dtype=torch.float64, requires_grad=True)
    row = head.row(make_samples(torch.zeros(3, dtype=torch.float64), norm))
    slope = (0.8 - 0.45) / 100
    assert torch.autograd.grad(row.margin.sum(), norm)[0].tolist() == pytest.approx([0, slope, 0])
    by_hand = 35 * (-1 / 50**2 + 1 / 110**2)
    assert torch.autograd.grad(head.penalty(norm).sum(), norm)[0].tolist() == pytest.approx([0, by_hand, 0])


def test_detached_margin_stops_the_gradient_from_margin_to_length(make_head, make_samples):
    norm = torch.tensor([50.0], requires_grad=True)
    own = torch.tensor([0.3], requires_grad=True)
    head = make_head("magface", margin_gradient="detached")
    value = head.target(own, head.row(make_samples(own, norm)))
    to_own, to_norm = torch.autograd.grad(value.sum(), [own, norm], allow_unused=True)
    assert to_own.item() == 1
    assert to_norm is None or to_norm.item() == 0


def test_default_weight_of_the_quality_term_is_above_its_bound(caplog, make_head):
    with caplog.at_level(logging.WARNING):
        head = make_head("magface")
    assert head.smallest_lambda_g == pytest.approx(22.59, abs=0.005)
    assert caplog.text == ""


def test_weight_of_the_quality_term_below_its_bound_is_warned_of_with_the_bound(caplog, make_head):
    with caplog.at_level(logging.WARNING):
        make_head("magface", lambda_g=20)
    assert "loss.lambda_g=20" in caplog.text
    assert "22.59" in caplog.text


def test_at_the_bound_the_quality_term_outweighs_the_steepest_cross_entropy_at_the_shortest_length(make_head):
    head = make_head("magface")
    norm = torch.tensor(10.0 + 1e-9, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(head.quality_term(norm), norm)
    assert -head.smallest_lambda_g * slope.item() == pytest.approx(64 * head.slope)


def test_setting_for_fine_tuning_builds(make_head):
    changes = {"shortest": 1, "longest": 51, "smallest_margin": 0.45, "largest_margin": 1, "lambda_g": 5}
    assert make_head("magface", **changes).slope == pytest.approx(0.011)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shortest": 110, "longest": 10}, r"loss\.shortest=110.* loss\.longest=10"),
        ({"smallest_margin": 0.9}, r"loss\.smallest_margin=0\.9 .*loss\.largest_margin=0\.8"),
    ],
)
def test_ends_in_the_wrong_order_are_an_error_that_names_both_keys(changes, message, make_head):
    with pytest.raises(ConfigError, match=message):
        make_head("magface", **changes)


@pytest.mark.parametrize(("key", "value"), [("lambda_g", -1), ("shortest", 0), ("largest_margin", 4), ("scale", 0)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("magface", **{key: value})
