import logging
import math

import pytest
import torch

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES
from frtrain.losses.l2_softmax import lower_bound

BOUNDS = [
    (10, 4.277, 5.024, 6.675),
    (100, 6.782, 7.529, 9.180),
    (1_000, 9.103, 9.850, 11.501),
    (10_572, 11.463, 12.210, 13.861),
    (13_403, 11.700, 12.448, 14.098),
    (58_207, 13.169, 13.916, 15.567),
    (85_742, 13.556, 14.304, 15.954),
    (93_431, 13.642, 14.389, 16.040),
    (360_232, 14.992, 15.739, 17.390),
    (2_059_906, 16.735, 17.483, 19.133),
]
PUBLISHED = [
    (classes, p, bound) for classes, *bounds in BOUNDS for p, bound in zip((0.9, 0.95, 0.99), bounds, strict=True)
]


def test_mean_loss_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("l2_softmax", alpha=16, bias=False), centres)(embedding, labels)
    assert loss.item() == pytest.approx(16.502484, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 5, 28])
def test_loss_is_the_formula_of_the_paper(alpha, faces, make_head, dense):
    embedding, centres, labels = faces
    bias = [0.3 * j - 1 for j in range(7)]
    expected = 0.0
    for x, label in zip(embedding.tolist(), labels.tolist(), strict=True):
        length = math.hypot(*x)
        logits = [
            sum(alpha * a / length * b for a, b in zip(x, w, strict=True)) + bias[j]
            for j, w in enumerate(centres.tolist())
        ]
        expected -= math.log(1 / sum(math.exp(z - logits[label]) for z in logits)) / len(labels)
    classifier = dense(make_head("l2_softmax", alpha=alpha), centres)
    classifier.bias = torch.nn.Parameter(torch.tensor(bias, dtype=torch.float64))
    assert classifier(embedding, labels)[0].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_it_is_softmax_on_embeddings_of_length_alpha(learn_alpha, faces, make_head, dense):
    embedding, centres, labels = faces
    on_the_sphere = 9 * embedding / embedding.norm(dim=1, keepdim=True)
    expected = dense(make_head("softmax"), centres)(on_the_sphere, labels)[0]
    head = make_head("l2_softmax", alpha=9, learn_alpha=learn_alpha)
    torch.testing.assert_close(dense(head, centres)(embedding * 3, labels)[0], expected)


@pytest.mark.parametrize(("classes", "probability", "bound"), PUBLISHED)
def test_bound_of_alpha_is_the_published_one_up_to_the_term_that_it_drops(classes, probability, bound):
    approximate = math.log(probability * (classes - 2) / (1 - probability))
    assert approximate == pytest.approx(bound, abs=5.1e-4)
    assert lower_bound(classes, probability) == pytest.approx(approximate, abs=2e-3 if classes == 10 else 2e-5)


@pytest.mark.parametrize("classes", [2, 3, 10, 10_572, 2_059_906])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99])
def test_bound_of_alpha_gives_exactly_its_probability(classes, probability):
    alpha = lower_bound(classes, probability)
    reached = math.exp(alpha) / (math.exp(alpha) + classes - 2 + math.exp(-alpha))
    assert reached == pytest.approx(probability, rel=1e-12)


@pytest.mark.parametrize("learn_alpha", [False, True])
def test_alpha_left_open_is_28_or_the_bound_of_many_classes(learn_alpha, make_head):
    head = make_head("l2_softmax", learn_alpha=learn_alpha)
    for classes, expected in [(7, 28), (2_059_906, 28), (10**12, lower_bound(10**12, 0.99)), (10_572, 28)]:
        head.set_up(classes)
        assert float(torch.as_tensor(head.embedding_length()).detach()) == pytest.approx(expected)


def test_given_alpha_stays_whatever_the_number_of_classes(make_head):
    head = make_head("l2_softmax", alpha=10)
    head.set_up(2_059_906)
    assert head.embedding_length() == 10


def test_alpha_below_the_bound_is_a_warning_with_the_numbers(make_head, caplog):
    head = make_head("l2_softmax", alpha=10)
    with caplog.at_level(logging.WARNING):
        head.set_up(2_449)
        assert not caplog.records
        head.set_up(10_572)
    (record,) = caplog.records
    assert record.name == "frtrain.losses.l2_softmax"
    assert record.levelname == "WARNING"
    for part in ("loss.alpha=10 ", "11.46", "10572 classes (C)", "0.9 (loss.probability)"):
        assert part in record.getMessage()


def test_bound_follows_the_probability_that_is_asked_for(make_head, caplog):
    make_head("l2_softmax", alpha=12, probability=0.9).set_up(10_572)
    assert not caplog.records
    make_head("l2_softmax", alpha=12, probability=0.95).set_up(10_572)
    assert "12.21" in caplog.text


def test_learned_alpha_gets_the_gradient_of_the_loss(faces, make_head, dense):
    embedding, centres, labels = faces
    head = make_head("l2_softmax", alpha=5, learn_alpha=True).double()
    loss, facts = dense(head, centres)(embedding, labels)
    loss.backward()
    up, down = (dense(make_head("l2_softmax", alpha=5 + step), centres)(embedding, labels)[0] for step in (1e-5, -1e-5))
    assert head.learned_length.grad.item() == pytest.approx(((up - down) / 2e-5).item(), rel=1e-6)
    assert facts.diagnostics["alpha"] == 5


def test_learned_alpha_is_a_single_number_that_cannot_turn_negative(make_head):
    head = make_head("l2_softmax", learn_alpha=True)
    assert head.learned_length.shape == ()
    with torch.no_grad():
        head.learned_length.fill_(-3)
    assert head.embedding_length().item() == pytest.approx(0.01)


def test_learned_alpha_travels_in_the_state(make_head):
    head, restarted = (make_head("l2_softmax", learn_alpha=True) for _ in range(2))
    with torch.no_grad():
        head.learned_length.fill_(33)
    restarted.load_state_dict(head.state_dict())
    assert restarted.embedding_length().item() == 33


def test_length_of_the_embedding_does_not_matter(faces, make_head, dense):
    embedding, centres, labels = faces
    short, long = (dense(make_head("l2_softmax"), centres)(embedding * size, labels)[0] for size in (1e-3, 1e3))
    torch.testing.assert_close(short, long)


def test_bias_is_learned_unless_switched_off(faces, make_head, dense):
    with_bias, without = (dense(make_head("l2_softmax", bias=bias), faces[1]) for bias in (True, False))
    assert {name for name, _ in with_bias.named_parameters()} == {"centres", "bias"}
    assert {name for name, _ in without.named_parameters()} == {"centres"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("alpha", 0), ("alpha", -1), ("alpha", "28"), ("probability", 1), ("probability", 0), ("learn_alpha", "no")],
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("l2_softmax"), key: value})
