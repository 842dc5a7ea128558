import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.errors import ConfigError
from frtrain.losses.curricularface import Curriculum


def step(classifier, embedding, labels):
    loss, facts = classifier(embedding, labels)
    classifier.advance()
    return loss, facts


def test_mean_loss_of_the_first_step_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("curricularface"), centres)(embedding, labels)
    assert loss.item() == pytest.approx(41.723054, abs=1e-6)


@pytest.mark.parametrize("rule", ["classic", "continuous", "none"])
@pytest.mark.parametrize(("margin", "ema"), [(0.5, 0.01), (0.3, 0.99), (0.7, 0.1)])
def test_loss_is_the_formula_over_several_steps(rule, margin, ema, golden, make_head, dense):
    embedding, centres, labels = golden
    cosines = F.cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    classifier = dense(make_head("curricularface", margin=margin, ema=ema, beyond_pi=rule).double(), centres)
    t = 0.0
    for _ in range(3):
        t = ema * sum(row[y] for row, y in zip(cosines, labels.tolist(), strict=True)) / 4 + (1 - ema) * t
        expected = 0.0
        for row, label in zip(cosines, labels.tolist(), strict=True):
            theta = math.acos(row[label])
            added = math.cos(theta + margin)
            logits = [64 * (c * (t + c) if c > added else c) for c in row]
            beyond = {
                "classic": row[label] - margin * math.sin(margin),
                "continuous": row[label] - 1 + math.cos(margin),
                "none": added,
            }
            logits[label] = 64 * (added if theta + margin <= math.pi else beyond[rule])
            expected += math.log(sum(math.exp(z - logits[label]) for z in logits)) / len(labels)
        loss, facts = step(classifier, embedding, labels)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        assert facts.diagnostics["t"].item() == pytest.approx(t)
        assert classifier.head.t.item() == pytest.approx(t)


@pytest.fixture
def row():
    return Curriculum(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64))


def test_only_classes_above_the_threshold_are_hard(row, make_head):
    cosines = torch.tensor([[0.5, 0.3, 0.1, -0.6]], dtype=torch.float64)
    head = make_head("curricularface")
    assert head.others(cosines, row)[0].tolist() == pytest.approx([0.5 * 0.7, 0.3, 0.1, -0.6])
    assert head.is_hard(cosines, row)[0].tolist() == [True, False, False, False]


def test_slope_of_a_hard_class_is_t_plus_twice_its_cosine(row, make_head):
    cosines = torch.tensor([[0.5, 0.9, 0.1]], dtype=torch.float64, requires_grad=True)
    others = make_head("curricularface").others(cosines, row)
    (slope,) = torch.autograd.grad(others.sum(), cosines)
    assert slope[0].tolist() == pytest.approx([0.2 + 1.0, 0.2 + 1.8, 1.0])


def test_easy_class_far_away_is_raised_while_t_is_small(make_head):
    early = Curriculum(torch.tensor([-0.9]), torch.tensor([0.0]))
    assert make_head("curricularface").others(torch.tensor([[-0.5]]), early).item() == pytest.approx(0.25)


def test_neither_threshold_nor_t_carries_gradient(make_head, make_samples):
    row = make_head("curricularface").row(make_samples(torch.tensor([0.5, 0.1], requires_grad=True)))
    assert not any(tensor.requires_grad for tensor in row)


def test_threshold_is_the_cosine_of_the_sum_even_beyond_pi(make_head, make_samples):
    theta = torch.tensor([1.0, 3.0], dtype=torch.float64)
    row = make_head("curricularface").row(make_samples(theta.cos()))
    torch.testing.assert_close(row.threshold, (theta + 0.5).cos())


def test_t_moves_only_when_the_step_is_taken_and_survives_a_restart(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("curricularface"), centres)
    classifier(embedding, labels)
    assert classifier.head.t == 0
    classifier.advance()
    assert classifier.head.t != 0
    resumed = dense(make_head("curricularface"), centres)
    resumed.head.load_state_dict(classifier.head.state_dict())
    assert torch.equal(resumed(embedding, labels)[0], classifier(embedding, labels)[0])


def test_t_is_used_as_it_is_in_evaluation(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("curricularface"), centres)
    classifier.head.t.fill_(0.25)
    classifier.eval()
    _, facts = step(classifier, embedding, labels)
    assert facts.diagnostics["t"] == 0.25
    assert classifier.head.t == 0.25


def test_faces_without_identity_do_not_move_t(faces, make_head, dense):
    embedding, centres, labels = faces
    moved = []
    for known in (slice(None), slice(0, 3)):
        classifier = dense(make_head("curricularface"), centres)
        masked = torch.full_like(labels, -1)
        masked[:3] = labels[:3]
        step(classifier, embedding[known], masked[known])
        moved.append(classifier.head.t.clone())
    torch.testing.assert_close(moved[0], moved[1])
    classifier.head.t.fill_(0.25)
    step(classifier, embedding, torch.full_like(labels, -1))
    assert classifier.head.t == 0.25


@pytest.mark.parametrize(("key", "value"), [("ema", 1.5), ("margin", -0.5), ("beyond_pi", "smooth"), ("scale", 0)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("curricularface", **{key: value})
