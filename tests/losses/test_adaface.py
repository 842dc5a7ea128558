import math
import statistics

import pytest
import torch
import torch.nn.functional as F

from frtrain.errors import ConfigError
from frtrain.losses.adaface import Quality

ANGLES = torch.linspace(0.05, math.pi - 0.05, 101, dtype=torch.float64)


def step(classifier, embedding, labels):
    loss, facts = classifier(embedding, labels)
    classifier.advance()
    return loss, facts


def target(head, angles, z):
    return head.target(angles.cos(), Quality(torch.full_like(angles, z)))


def test_mean_loss_without_memory_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("adaface", t_alpha=1), centres)(embedding, labels)
    assert loss.item() == pytest.approx(56.702522, abs=1e-6)


@pytest.mark.parametrize("rule", ["clip", "continuous", "none"])
@pytest.mark.parametrize(("margin", "h", "t_alpha"), [(0.4, 0.333, 0.01), (0.4, 0.333, 1.0), (0.5, 2.0, 0.3)])
def test_loss_is_the_formula_over_several_steps(rule, margin, h, t_alpha, golden, make_head, dense):
    embedding, centres, labels = golden
    classifier = dense(make_head("adaface", margin=margin, h=h, t_alpha=t_alpha, beyond_pi=rule).double(), centres)
    mu, sigma = 20.0, 100.0
    for lengthened in (1.0, 3.0, 8.0):
        vectors = embedding * lengthened
        cosines = F.cosine_similarity(vectors[:, None], centres, dim=2).tolist()
        lengths = [math.hypot(*vector) for vector in vectors.tolist()]
        mu = t_alpha * statistics.mean(lengths) + (1 - t_alpha) * mu
        sigma = t_alpha * statistics.stdev(lengths) + (1 - t_alpha) * sigma
        expected = 0.0
        for row, length, label in zip(cosines, lengths, labels.tolist(), strict=True):
            z = min(max(h * (length - mu) / (sigma + 1e-3), -1), 1)
            theta = max(math.acos(row[label]) - margin * z, 0.0)
            beyond = {"clip": -1.0, "continuous": row[label] - 1 + math.cos(margin * z), "none": math.cos(theta)}
            logits = [64 * c for c in row]
            logits[label] = 64 * ((math.cos(theta) if theta <= math.pi else beyond[rule]) - (margin + margin * z))
            expected += math.log(sum(math.exp(x - logits[label]) for x in logits)) / len(labels)
        loss, _ = step(classifier, vectors, labels)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        assert classifier.head.mu.item() == pytest.approx(mu)
        assert classifier.head.sigma.item() == pytest.approx(sigma)


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (1.0, lambda theta: math.cos(max(theta - 0.4, 0)) - 0.8),
        (0.0, lambda theta: math.cos(theta) - 0.4),
        (-1.0, lambda theta: math.cos(min(theta + 0.4, math.pi))),
    ],
)
def test_quality_turns_the_margin_from_arcface_over_cosface_to_its_opposite(z, expected, make_head):
    values = target(make_head("adaface"), ANGLES, z).tolist()
    assert values == pytest.approx([expected(theta) for theta in ANGLES.tolist()])


def test_margin_zero_is_normface(faces, make_head, dense):
    embedding, centres, labels = faces
    ours = dense(make_head("adaface", margin=0), centres)(embedding, labels)[0]
    parent = dense(make_head("normface", scale=64, learn_scale=False), centres)(embedding, labels)[0]
    torch.testing.assert_close(ours, parent)


def test_concentration_zero_is_cosface(faces, make_head, dense):
    embedding, centres, labels = faces
    ours = dense(make_head("adaface", h=0), centres)(embedding, labels)[0]
    torch.testing.assert_close(ours, dense(make_head("cosface", margin=0.4), centres)(embedding, labels)[0])


def test_quality_is_a_constant_to_the_gradient(golden, make_head, dense):
    embedding, centres, labels = golden
    embedding.requires_grad_()
    head = make_head("adaface", t_alpha=1)
    loss, _ = dense(head, centres)(embedding, labels)
    (ours,) = torch.autograd.grad(loss, embedding)

    norm = embedding.detach().norm(dim=1)
    z = (0.333 * (norm - norm.mean()) / (norm.std() + 1e-3)).clamp(-1, 1)
    logits = F.normalize(embedding) @ F.normalize(centres).T
    theta = logits.gather(1, labels[:, None]).squeeze(1).acos()
    margined = (theta - 0.4 * z).clamp(0, math.pi).cos() - (0.4 + 0.4 * z)
    by_hand = F.cross_entropy(64 * logits.scatter(1, labels[:, None], margined[:, None]), labels)
    torch.testing.assert_close(ours, torch.autograd.grad(by_hand, embedding)[0])


def test_lengths_are_cut_off_before_the_statistics(make_head, make_samples):
    head = make_head("adaface", t_alpha=1)
    head.row(make_samples(torch.zeros(2), torch.tensor([1e-9, 1e9])))
    head.advance()
    assert head.mu.item() == pytest.approx((1e-3 + 100) / 2)


def test_statistics_are_those_of_faces_with_an_identity(faces, make_head, dense):
    embedding, centres, labels = faces
    masked = torch.full_like(labels, -1)
    masked[:3] = labels[:3]
    states = []
    for part in (slice(None), slice(0, 3)):
        classifier = dense(make_head("adaface", t_alpha=1), centres)
        step(classifier, embedding[part], masked[part])
        states.append(classifier.head.state_dict())
    for name in ("mu", "sigma"):
        torch.testing.assert_close(states[0][name], states[1][name])


@pytest.mark.parametrize("known", [0, 1])
def test_fewer_than_two_faces_move_no_statistics(known, faces, make_head, dense):
    embedding, centres, labels = faces
    masked = torch.full_like(labels, -1)
    masked[:known] = labels[:known]
    classifier = dense(make_head("adaface", t_alpha=1), centres)
    loss, _ = step(classifier, embedding, masked)
    assert loss.isfinite()
    assert (classifier.head.mu, classifier.head.sigma) == (20, 100)


def test_statistics_move_only_when_the_step_is_taken_and_survive_a_restart(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("adaface"), centres)
    classifier(embedding, labels)
    assert (classifier.head.mu, classifier.head.sigma) == (20, 100)
    classifier.advance()
    assert classifier.head.mu < 20
    assert classifier.head.sigma < 100
    resumed = dense(make_head("adaface"), centres)
    resumed.head.load_state_dict(classifier.head.state_dict())
    assert torch.equal(resumed(embedding, labels)[0], classifier(embedding, labels)[0])


def test_statistics_are_used_as_they_are_in_evaluation(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("adaface", t_alpha=1), centres).eval()
    _, facts = step(classifier, embedding, labels)
    norm = embedding.norm(dim=1)
    assert facts.diagnostics["z"].item() == pytest.approx((0.333 * (norm - 20) / 100.001).mean().item())
    assert classifier.head.mu == 20


@pytest.mark.parametrize("rule", ["continuous", "classic", "clip", "none", "easy"])
@pytest.mark.parametrize("z", [-1.0, -0.3, 0.0, 0.3, 1.0])
def test_poles_are_finite_in_float32_for_every_quality(rule, z, make_head):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    value = make_head("adaface", beyond_pi=rule).target(cosine, Quality(torch.full((6,), z)))
    (slope,) = torch.autograd.grad(value.sum(), cosine)
    assert value.isfinite().all()
    assert slope.abs().max() < 3000


def test_detached_margin_has_the_same_bits_and_slope_one(make_head):
    cosine = ANGLES.cos().requires_grad_()
    for z in (-1.0, 1.0):
        row = Quality(torch.full_like(ANGLES, z))
        exact, detached = (
            make_head("adaface", margin_gradient=mode).target(cosine, row) for mode in ("exact", "detached")
        )
        assert torch.equal(exact, detached)
        assert (torch.autograd.grad(detached.sum(), cosine)[0] == 1).all()


@pytest.mark.parametrize(("key", "value"), [("t_alpha", 1.5), ("h", -0.3), ("margin", -0.4), ("scale", 0)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("adaface", **{key: value})
