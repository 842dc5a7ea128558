import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.errors import ConfigError

VERSIONS = ["v0", "v1", "v2"]
ANGLES = torch.linspace(0.05, math.pi - 0.05, 101, dtype=torch.float64)


def own(theta: float, version: str, m: float) -> float:
    if version == "v2":
        return math.cos(theta)
    if version == "v1":
        return math.cos(min(m * theta, math.pi))
    k = math.floor(m * theta / math.pi)
    return (-1) ** k * math.cos(m * theta) - 2 * k


def wrong(theta: float, version: str, m: float) -> float:
    return math.cos(theta / m) if version == "v2" else math.cos(theta)


def length_row(head, make_samples, own):
    return head.row(make_samples(own))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("normalisation", ["hard", "soft", "none"])
@pytest.mark.parametrize("margin", [1.0, 1.5, 2.7])
def test_loss_is_the_formula(version, normalisation, margin, golden, make_head, dense):
    embedding, centres, labels = golden
    cosines = F.cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    expected = 0.0
    for vector, row, label in zip(embedding.tolist(), cosines, labels.tolist(), strict=True):
        length = math.hypot(*vector)
        s = 30 if normalisation == "hard" else length
        logits = [s * wrong(math.acos(c), version, margin) for c in row]
        logits[label] = s * own(math.acos(row[label]), version, margin)
        entropy = math.log(sum(math.exp(z - logits[label]) for z in logits))
        expected += 50 / 30 * entropy + (0.01 * abs(length - 30) if normalisation == "soft" else 0)
    head = make_head("sphereface_r", version=version, normalisation=normalisation, margin=margin)
    assert dense(head, centres)(embedding, labels)[0].item() == pytest.approx(expected / len(labels), abs=1e-9)


@pytest.mark.parametrize("version", VERSIONS)
def test_margin_one_is_normface_times_the_loss_weight(version, faces, make_head, dense):
    embedding, centres, labels = faces
    ours = dense(make_head("sphereface_r", version=version, margin=1), centres)(embedding, labels)[0]
    parent = dense(make_head("normface", scale=30, learn_scale=False), centres)(embedding, labels)[0]
    torch.testing.assert_close(ours, 50 / 30 * parent, rtol=1e-6, atol=0)


def test_v0_with_a_whole_margin_is_the_psi_of_sphereface(make_head, make_samples):
    head = make_head("sphereface_r", version="v0", margin=4)
    values = head.target(ANGLES.cos(), length_row(head, make_samples, ANGLES.cos()))
    torch.testing.assert_close(values, make_head("sphereface").psi(ANGLES.cos()))


def test_v0_falls_without_a_jump_for_any_margin(make_head, make_samples):
    angles = torch.linspace(0.05, math.pi - 0.05, 5001, dtype=torch.float64)
    head = make_head("sphereface_r", version="v0", margin=2.7)
    steps = head.target(angles.cos(), length_row(head, make_samples, angles.cos())).diff()
    assert (steps <= 0).all()
    assert steps.min() > -0.002


def test_v2_makes_every_wrong_class_look_nearer(make_head, make_samples):
    head = make_head("sphereface_r")
    cosines = ANGLES.cos()[None]
    others = head.others(cosines, length_row(head, make_samples, cosines[0]))
    assert (others > cosines).all()
    assert (others.diff() < 0).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_detached_margin_gives_the_same_loss_and_slope_one(version, faces, make_head, dense, make_samples):
    embedding, centres, labels = faces
    losses = []
    for mode in ("exact", "detached"):
        head = make_head("sphereface_r", version=version, margin_gradient=mode)
        losses.append(dense(head, centres)(embedding, labels)[0])
    assert torch.equal(*losses)
    cosine = ANGLES.cos().requires_grad_()
    row = length_row(head, make_samples, cosine)
    both = head.target(cosine, row).sum() + head.others(cosine[None], row).sum()
    torch.testing.assert_close(torch.autograd.grad(both, cosine)[0], torch.full_like(ANGLES, 2))


def test_exact_slope_of_a_wrong_class_is_the_ratio_of_sines(make_head, make_samples):
    head = make_head("sphereface_r")
    cosine = ANGLES.cos().requires_grad_()
    others = head.others(cosine[None], length_row(head, make_samples, cosine))
    (slope,) = torch.autograd.grad(others.sum(), cosine)
    torch.testing.assert_close(slope, (ANGLES / 1.5).sin() / (1.5 * ANGLES.sin()))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("normalisation", ["hard", "soft", "none"])
def test_gradient_is_that_of_the_loss_with_every_normalisation(version, normalisation, faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("sphereface_r", version=version, normalisation=normalisation), centres)

    def of(embedding, centres):
        return torch.func.functional_call(classifier, {"centres": centres}, (embedding, labels))[0]

    assert torch.autograd.gradcheck(of, (embedding.requires_grad_(), centres.requires_grad_()))


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_target_of_the_other_versions_is_finite_at_the_poles_in_float32(version, make_head, make_samples):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    head = make_head("sphereface_r", version=version)
    values = head.target(cosine, length_row(head, make_samples, cosine))
    (slope,) = torch.autograd.grad(values.sum(), cosine)
    assert values.isfinite().all()
    assert slope.abs().max() < 1000


def test_soft_normalisation_draws_the_length_towards_the_scale(make_head):
    head = make_head("sphereface_r", normalisation="soft")
    norm = torch.tensor([10.0, 50.0], requires_grad=True)
    penalty = head.penalty(norm)
    assert penalty.tolist() == pytest.approx([0.2, 0.2])
    assert torch.autograd.grad(penalty.sum(), norm)[0].tolist() == pytest.approx([-0.01, 0.01])


@pytest.mark.parametrize("normalisation", ["hard", "none"])
def test_no_other_normalisation_has_a_penalty(normalisation, make_head):
    assert make_head("sphereface_r", normalisation=normalisation).penalty(torch.ones(2)) is None


@pytest.mark.parametrize(
    ("key", "value"), [("margin", 0.9), ("version", "v3"), ("normalisation", "l2"), ("loss_weight", 0), ("scale", 0)]
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("sphereface_r", **{key: value})
