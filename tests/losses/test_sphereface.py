import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.errors import ConfigError

BARE = {"lambda_base": 0, "lambda_min": 0}


def psi(theta: float, m: int) -> float:
    k = min(math.floor(m * theta / math.pi), m - 1)
    return (-1) ** k * math.cos(m * theta) - 2 * k


def test_mean_loss_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("sphereface", scale=32, **BARE), centres)(embedding, labels)
    assert loss.item() == pytest.approx(105.638882, abs=1e-6)


@pytest.mark.parametrize("scale", [None, 20])
@pytest.mark.parametrize("margin", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [0, 7, 100_000])
def test_loss_is_the_formula_at_every_step(scale, margin, steps, golden, make_head, dense):
    embedding, centres, labels = golden
    annealing = max(5, 1000 / (1 + 0.12 * steps))
    expected = 0.0
    cosines = F.cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    for vector, row, label in zip(embedding.tolist(), cosines, labels.tolist(), strict=True):
        s = math.hypot(*vector) if scale is None else scale
        logits = [s * c for c in row]
        logits[label] = s * (annealing * row[label] + psi(math.acos(row[label]), margin)) / (1 + annealing)
        expected += math.log(sum(math.exp(z - logits[label]) for z in logits)) / len(labels)
    head = make_head("sphereface", scale=scale, margin=margin)
    head.step.fill_(steps)
    loss, facts = dense(head, centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert facts.diagnostics["lambda"].item() == pytest.approx(annealing)


@pytest.mark.parametrize("margin", [2, 3, 4, 5])
def test_psi_is_continuous_and_falls_from_one_to_one_minus_two_m(margin, make_head):
    angles = torch.linspace(0, math.pi, 5001, dtype=torch.float64)
    values = make_head("sphereface", margin=margin).psi(angles.cos())
    expected = [psi(theta, margin) for theta in angles.tolist()]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (values.diff() <= 1e-12).all()
    assert values.diff().min() > -0.01
    assert values[0].item() == pytest.approx(1)
    assert values[-1].item() == pytest.approx(1 - 2 * margin)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_psi_has_a_bounded_slope_up_to_the_poles_in_float32(margin, make_head):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    (slope,) = torch.autograd.grad(make_head("sphereface", margin=margin).psi(cosine).sum(), cosine)
    torch.testing.assert_close(slope, torch.full((6,), float(margin**2)), rtol=1e-4, atol=0)


def test_slope_of_psi_is_the_ratio_of_sines(make_head):
    angles = torch.linspace(0.1, 3.0, 50, dtype=torch.float64)
    cosine = angles.cos().requires_grad_()
    (slope,) = torch.autograd.grad(make_head("sphereface").psi(cosine).sum(), cosine)
    torch.testing.assert_close(slope, 4 * (4 * angles).sin().abs() / angles.sin())


def test_without_margin_it_is_softmax_on_normalised_centres_and_embeddings_as_they_are(faces, make_head, dense):
    embedding, centres, labels = faces
    expected = F.cross_entropy(embedding @ F.normalize(centres).T, labels)
    torch.testing.assert_close(dense(make_head("sphereface", margin=1), centres)(embedding, labels)[0], expected)


def test_without_margin_and_with_a_scale_it_is_normface(faces, make_head, dense):
    embedding, centres, labels = faces
    ours = dense(make_head("sphereface", margin=1, scale=20), centres)(embedding, labels)[0]
    parent = dense(make_head("normface", scale=20, learn_scale=False), centres)(embedding, labels)[0]
    torch.testing.assert_close(ours, parent)


def test_loss_and_gradients_are_those_of_pytorch_metric_learning(faces, make_head, dense):
    reference = pytest.importorskip("pytorch_metric_learning.losses")
    embedding, centres, labels = faces
    centres = F.normalize(centres)
    theirs = reference.SphereFaceLoss(num_classes=7, embedding_size=5, margin=4, scale=1).double()
    theirs.W = torch.nn.Parameter(centres.T.clone())
    their_embedding = embedding.clone().requires_grad_()
    their_loss = theirs(their_embedding, labels)
    their_loss.backward()

    classifier = dense(make_head("sphereface", **BARE), centres)
    embedding.requires_grad_()
    loss, _ = classifier(embedding, labels)
    loss.backward()
    torch.testing.assert_close(loss, their_loss)
    torch.testing.assert_close(embedding.grad, their_embedding.grad)
    torch.testing.assert_close(classifier.centres.grad, theirs.W.grad.T)


def test_length_of_the_embedding_scales_the_logits_and_gets_a_gradient(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("sphereface", **BARE), centres)
    lengthening = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss, facts = classifier(embedding * lengthening, labels)
    (slope,) = torch.autograd.grad(loss, lengthening)
    step = 1e-6
    up, down = (classifier(embedding * (1 + sign * step), labels)[0] for sign in (1, -1))
    assert slope.item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-6)
    assert facts.diagnostics["scale"].item() == pytest.approx(embedding.norm(dim=1).mean().item())


def test_annealing_goes_on_with_the_steps_taken_and_survives_a_restart(make_head):
    head, resumed = make_head("sphereface"), make_head("sphereface")
    for _ in range(5):
        head.advance()
    assert head.annealing.item() == pytest.approx(1000 / 1.6)
    resumed.load_state_dict(head.state_dict())
    assert torch.equal(resumed.annealing, head.annealing)


def test_power_bends_the_annealing(make_head):
    head = make_head("sphereface", gamma=1e-4, power=2)
    head.step.fill_(10_000)
    assert head.annealing.item() == pytest.approx(250)


@pytest.mark.parametrize(
    ("key", "value"), [("margin", 0), ("margin", 1.5), ("scale", 0), ("gamma", -0.1), ("lambda_min", -1)]
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("sphereface", **{key: value})
