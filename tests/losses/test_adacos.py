import math
import statistics

import pytest
import torch
from torch.nn.functional import cosine_similarity

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES

STRANGER = -1


@pytest.fixture
def dynamic(make_head, dense):
    """dynamic(centres): a float64 classifier with the dynamic scale."""
    return lambda centres: dense(make_head("adacos", mode="dynamic").double(), centres).double()


def next_scale(cosines: list[list[float]], labels: list[int], before: float) -> float:
    sums, angles = [], []
    for row, label in zip(cosines, labels, strict=True):
        if label != STRANGER:
            sums.append(sum(math.exp(before * cosine) for j, cosine in enumerate(row) if j != label))
            angles.append(math.acos(row[label]))
    return math.log(sum(sums) / len(sums)) / math.cos(min(math.pi / 4, statistics.median_low(angles)))


def softmax_loss(cosines: list[list[float]], labels: list[int], scale: float) -> float:
    known = [(row, label) for row, label in zip(cosines, labels, strict=True) if label != STRANGER]
    losses = [math.log(sum(math.exp(scale * (c - row[label])) for c in row)) for row, label in known]
    return sum(losses) / len(losses)


def test_mean_loss_with_the_fixed_scale_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("adacos", mode="fixed"), centres)(embedding, labels)
    assert loss.item() == pytest.approx(2.124888, abs=1e-6)


@pytest.mark.parametrize(("classes", "scale"), [(10, 3.107), (1000, 9.768), (85_742, 16.064), (2_059_906, 20.560)])
def test_fixed_scale_is_the_published_one(classes, scale, make_head):
    head = make_head("adacos", mode="fixed")
    head.set_up(classes)
    assert head.scale == pytest.approx(scale, abs=1e-3)


def test_fixed_scale_is_normface_with_that_scale(faces, make_head, dense):
    embedding, centres, labels = faces
    parent = make_head("normface", scale=math.sqrt(2) * math.log(6), learn_scale=False)
    fixed = make_head("adacos", mode="fixed")
    torch.testing.assert_close(
        dense(fixed, centres)(embedding, labels)[0], dense(parent, centres)(embedding, labels)[0]
    )


def test_dynamic_scale_and_loss_follow_the_formula_over_three_steps(golden, dynamic):
    embedding, centres, labels = golden
    classifier = dynamic(centres)
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    scale = math.sqrt(2) * math.log(5)
    for _ in range(3):
        loss, facts = classifier(embedding, labels)
        classifier.advance()
        scale = next_scale(cosines, labels.tolist(), scale)
        assert facts.diagnostics["scale"].item() == pytest.approx(scale, abs=1e-9)
        assert loss.item() == pytest.approx(softmax_loss(cosines, labels.tolist(), scale), abs=1e-9)


@pytest.mark.parametrize("own", [[0.95, 0.8, 0.9], [0.95, 0.8, 0.9, 0.75], [0.3, 0.99], [0.9]])
def test_median_is_the_lower_middle_of_the_known_angles(own, make_head, make_samples):
    head = make_head("adacos", mode="dynamic").double()
    cosines = torch.tensor([0.99, *own, -0.9], dtype=torch.float64)
    labels = torch.tensor([STRANGER, *range(len(own)), STRANGER])
    row = head.row(make_samples(cosines, labels=labels, log_sum=torch.full_like(cosines, 3.0)))
    median = torch.tensor(own).double().acos().median()
    assert row.scale[0].item() == pytest.approx(3.0 / math.cos(min(math.pi / 4, median.item())))


def test_only_samples_with_an_identity_set_the_scale(golden, dynamic):
    embedding, centres, labels = golden
    labels = torch.tensor([0, STRANGER, 5, STRANGER])
    _, facts = dynamic(centres)(embedding, labels)
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    expected = next_scale(cosines, labels.tolist(), math.sqrt(2) * math.log(5))
    assert facts.diagnostics["scale"].item() == pytest.approx(expected, abs=1e-9)


def test_batch_without_any_identity_leaves_the_scale(faces, dynamic):
    embedding, centres, labels = faces
    classifier = dynamic(centres)
    before = classifier.head.state_dict()["dynamic_scale"].clone()
    _, facts = classifier(embedding, torch.full_like(labels, STRANGER))
    classifier.advance()
    assert facts.diagnostics["scale"] == before
    assert torch.equal(classifier.head.state_dict()["dynamic_scale"], before)


def test_scale_is_a_constant_to_the_gradient(faces, dynamic, make_head, dense):
    embedding, centres, labels = faces
    vectors = embedding.clone().requires_grad_()
    loss, facts = dynamic(centres)(vectors, labels)
    loss.backward()
    parent = make_head("normface", scale=facts.diagnostics["scale"].item(), learn_scale=False)
    others = embedding.clone().requires_grad_()
    dense(parent, centres)(others, labels)[0].backward()
    torch.testing.assert_close(vectors.grad, others.grad)


def test_scale_advances_only_when_told(faces, dynamic):
    embedding, centres, labels = faces
    classifier = dynamic(centres)
    start = classifier.head.dynamic_scale.item()
    _, facts = classifier(embedding, labels)
    assert classifier.head.dynamic_scale.item() == start
    classifier.advance()
    assert classifier.head.dynamic_scale.item() == facts.diagnostics["scale"].item() != start


def test_scale_does_not_advance_in_evaluation(faces, dynamic):
    embedding, centres, labels = faces
    classifier = dynamic(centres).eval()
    start = classifier.head.dynamic_scale.item()
    classifier(embedding, labels)
    classifier.advance()
    assert classifier.head.dynamic_scale.item() == start


def test_scale_is_restored_from_a_checkpoint(faces, dynamic):
    embedding, centres, labels = faces
    classifier = dynamic(centres)
    classifier(embedding, labels)
    classifier.advance()
    resumed = dynamic(centres)
    resumed.load_state_dict(classifier.state_dict())
    assert torch.equal(resumed(embedding, labels)[0], classifier(embedding, labels)[0])


def test_fixed_scale_needs_no_state_and_no_survey(make_head):
    head = make_head("adacos", mode="fixed")
    assert not head.state_dict()
    assert not head.surveys


def test_scale_stays_positive_with_two_classes(make_head, dense):
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for mode in ("fixed", "dynamic"):
        _, facts = dense(make_head("adacos", mode=mode), centres)(torch.tensor([[1.0, 0.1]]), torch.tensor([0]))
        assert facts.diagnostics["scale"].item() == pytest.approx(math.sqrt(2) * math.log(2))


def test_sum_of_exponentials_does_not_overflow_in_float32(make_head, make_samples):
    head = make_head("adacos", mode="dynamic")
    own = torch.tensor([1.0, 1.0])
    assert head.row(make_samples(own, log_sum=torch.tensor([500.0, 500.0]))).scale.tolist() == [500.0, 500.0]


def test_unknown_mode_is_an_error_that_names_the_key(loss_spec):
    with pytest.raises(ConfigError, match=r"^loss\.mode="):
        LOSSES.build({**loss_spec("adacos"), "mode": "adaptive"})
