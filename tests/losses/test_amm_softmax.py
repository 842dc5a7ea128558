import math

import pytest
import torch

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES
from frtrain.losses.base import Samples

FLOAT32_ENDS = [-1 - 4e-7, -1.0, -1 + 6e-8, 0.0, 1 - 6e-8, 1.0, 1 + 4e-7]


def loss_of(head, batch, dense):
    embedding, centres, labels = batch
    return dense(head, centres)(embedding, labels)[0]


def test_mean_loss_is_the_golden_value_of_the_reconstruction(golden, make_head, dense):
    head = make_head("amm_softmax", scale=32, beyond_pi="none")
    assert loss_of(head, golden, dense).item() == pytest.approx(26.890449, abs=1e-6)


def formula(cosines, label, scale, margin, hard_margin, indicator, negative_margin_kind):
    """The reconstruction in angles, with the continuous rule beyond pi."""
    angles = [math.acos(cosine) for cosine in cosines]
    theta = angles[label]
    margined = math.cos(theta + margin) if theta + margin <= math.pi else math.cos(theta) - (1 - math.cos(margin))
    threshold = margined if indicator == "margined" else math.cos(theta)
    logits = []
    for j, angle in enumerate(angles):
        if j == label:
            logits.append(scale * margined)
        elif math.cos(angle) > threshold:
            nearer = max(angle - hard_margin, 0) if negative_margin_kind == "additive" else angle * (1 - hard_margin)
            logits.append(scale * math.cos(nearer))
        else:
            logits.append(scale * math.cos(angle))
    return math.log(sum(math.exp(z - logits[label]) for z in logits))


@pytest.mark.parametrize("indicator", ["margined", "plain"])
@pytest.mark.parametrize("negative_margin_kind", ["additive", "proportional"])
@pytest.mark.parametrize(("margin", "hard_margin"), [(0.5, 0.15), (0.3, 0.9), (0.0, 0.4)])
def test_loss_is_the_formula_in_angles(indicator, negative_margin_kind, margin, hard_margin, golden, make_head, dense):
    embedding, centres, labels = golden
    cosines = torch.nn.functional.cosine_similarity(embedding[:, None], centres[None], dim=2).tolist()
    setting = {
        "scale": 16,
        "margin": margin,
        "hard_margin": hard_margin,
        "indicator": indicator,
        "negative_margin_kind": negative_margin_kind,
    }
    expected = sum(formula(row, label, **setting) for row, label in zip(cosines, labels.tolist(), strict=True)) / 4
    assert loss_of(make_head("amm_softmax", **setting), golden, dense).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("indicator", ["margined", "plain"])
@pytest.mark.parametrize("negative_margin_kind", ["additive", "proportional"])
@pytest.mark.parametrize("margin_gradient", ["exact", "detached"])
def test_without_a_hard_margin_it_is_arcface(indicator, negative_margin_kind, margin_gradient, faces, make_head, dense):
    kinds = {"indicator": indicator, "negative_margin_kind": negative_margin_kind}
    ours = make_head("amm_softmax", hard_margin=0, margin_gradient=margin_gradient, **kinds)
    parent = make_head("arcface", margin_gradient=margin_gradient)
    losses, gradients = [], []
    for head in (ours, parent):
        embedding = faces[0].clone().requires_grad_()
        losses.append(loss_of(head, (embedding, *faces[1:]), dense))
        gradients.append(torch.autograd.grad(losses[-1], embedding))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("indicator", ["margined", "plain"])
@pytest.mark.parametrize("negative_margin_kind", ["additive", "proportional"])
def test_exact_gradient_is_that_of_the_loss(indicator, negative_margin_kind, faces, make_head, dense):
    embedding, centres, labels = faces
    head = make_head("amm_softmax", scale=8, indicator=indicator, negative_margin_kind=negative_margin_kind)
    assert torch.autograd.gradcheck(
        lambda vectors: loss_of(head, (vectors, centres, labels), dense), embedding.requires_grad_()
    )


@pytest.fixture
def others_of(make_samples):
    def others(head, own_angle, angles):
        row = head.row(make_samples(torch.tensor([own_angle], dtype=torch.float64).cos()))
        cosines = torch.tensor([angles], dtype=torch.float64).cos().requires_grad_()
        found = head.others(cosines, row)
        found.sum().backward()
        return found[0].tolist(), cosines.grad[0].tolist(), head.class_diagnostics(cosines, row)["support_vectors"][0]

    return others


@pytest.mark.parametrize(("other", "margins"), [(0.5, 0.65), (1.1, 0.65), (1.19, 0.65), (1.21, 0.5), (2.0, 0.5)])
def test_angle_that_is_missing_to_a_wrong_class_counts_both_margins_while_it_is_hard(
    other, margins, make_head, others_of, make_samples
):
    head = make_head("amm_softmax", margin=0.5, hard_margin=0.15)
    own = torch.tensor([0.7], dtype=torch.float64)
    target = head.target(own.cos(), head.row(make_samples(own.cos())))
    (wrong,), _, _ = others_of(head, 0.7, [other])
    assert math.acos(target.item()) - math.acos(wrong) == pytest.approx(margins - (other - 0.7))


@pytest.mark.parametrize(("indicator", "limit"), [("margined", 1.0), ("plain", 0.5)])
def test_indicator_says_which_classes_are_hard(indicator, limit, make_head, others_of):
    head = make_head("amm_softmax", indicator=indicator)
    angles = [limit - 0.01, limit + 0.01, 2.5]
    found, _, hard = others_of(head, 0.5, angles)
    assert hard.tolist() == [True, False, False]
    assert found == pytest.approx([math.cos(limit - 0.16), math.cos(limit + 0.01), math.cos(2.5)])


def test_indicator_follows_the_rule_beyond_pi(make_head, others_of):
    # Without a rule cos(3.1 + 0.5) rises again above cos(3.0), so that a class as far as that would count as easy.
    assert others_of(make_head("amm_softmax"), 3.1, [3.0])[2].tolist() == [True]
    assert others_of(make_head("amm_softmax", beyond_pi="none"), 3.1, [3.0])[2].tolist() == [False]


def test_class_nearer_than_the_hard_margin_becomes_one_without_gradient(make_head, others_of):
    found, slopes, _ = others_of(make_head("amm_softmax", hard_margin=0.2), 1.0, [0.05, 0.19])
    assert found == [1.0, 1.0]
    assert slopes == [0.0, 0.0]


def test_hard_classes_get_the_transform_of_wespeakers_inter_topk(make_head, others_of):
    angles, mp = [0.3, 0.8, 1.2, 1.5], 0.06
    found, _, _ = others_of(make_head("amm_softmax", margin=0.2, hard_margin=mp), 1.6, angles)
    cosines, sines = [math.cos(angle) for angle in angles], [math.sin(angle) for angle in angles]
    closed = [c * math.cos(mp) + s * math.sin(mp) for c, s in zip(cosines, sines, strict=True)]
    assert found == pytest.approx(closed)


@pytest.mark.parametrize("kind", ["additive", "proportional"])
def test_slope_of_a_hard_class_is_exact_or_one(kind, make_head, others_of):
    angles = [0.4, 1.0, 2.0, 3.0]
    settings = {"negative_margin_kind": kind, "hard_margin": 0.2}
    slopes = {
        mode: others_of(make_head("amm_softmax", margin_gradient=mode, **settings), 3.1, angles)
        for mode in ("exact", "detached")
    }
    exact = [
        math.sin(theta - 0.2) / math.sin(theta) if kind == "additive" else 0.8 * math.sin(0.8 * theta) / math.sin(theta)
        for theta in angles
    ]
    assert slopes["exact"][1] == pytest.approx(exact)
    assert slopes["detached"][1] == pytest.approx([1.0] * 4)
    assert slopes["detached"][0] == slopes["exact"][0]


@pytest.mark.parametrize("kind", ["additive", "proportional"])
def test_hard_classes_are_never_lowered(kind, make_head, make_samples):
    head = make_head("amm_softmax", negative_margin_kind=kind)
    cosines = torch.linspace(-1, 1, 2001, dtype=torch.float64)[None]
    others = head.others(cosines, head.row(make_samples(torch.tensor([-0.9], dtype=torch.float64))))
    assert (others >= cosines - 1e-6).all()


@pytest.mark.parametrize("kind", ["additive", "proportional"])
@pytest.mark.parametrize("mode", ["exact", "detached"])
def test_both_poles_are_finite_in_float32(kind, mode, make_head, make_samples):
    head = make_head("amm_softmax", negative_margin_kind=kind, margin_gradient=mode)
    cosines = torch.tensor([FLOAT32_ENDS], requires_grad=True)
    row = head.row(make_samples(torch.tensor([-1.0])))
    everything_is_hard = row._replace(threshold=torch.tensor([-2.0]))
    others = head.others(cosines, everything_is_hard)
    others.sum().backward()
    assert others.isfinite().all()
    assert cosines.grad.abs().max() < 600


def test_threshold_and_hard_margin_have_no_gradient(make_head, make_samples):
    head = make_head("amm_softmax", adaptive=True)
    assert not any(tensor.requires_grad for tensor in head.row(make_samples(torch.tensor([0.5], requires_grad=True))))


def test_adaptive_hard_margin_follows_the_running_mean_of_the_target_cosine(make_head, make_samples):
    head = make_head("amm_softmax", adaptive=True, ema_weight=0.25, hard_margin=0.2)
    mean = 0.0
    for cosines in ([0.8, 0.4], [0.5, -0.1], [0.9, 0.9]):
        mean = 0.75 * mean + 0.25 * sum(cosines) / 2
        row = head.row(make_samples(torch.tensor(cosines)))
        assert row.hard_margin.tolist() == pytest.approx([0.2 * mean] * 2)
        assert head.diagnostics(row)["hard_margin"].tolist() == pytest.approx([0.2 * mean] * 2)
        head.advance()
        assert head.mean_target_cosine.item() == pytest.approx(mean)


def test_adaptive_hard_margin_is_never_negative(make_head, make_samples):
    head = make_head("amm_softmax", adaptive=True)
    assert head.row(make_samples(torch.tensor([-0.8, -0.2]))).hard_margin.tolist() == [0, 0]


def test_running_mean_moves_only_when_the_step_is_taken_and_travels_in_the_state(make_head, make_samples):
    head, restarted = (make_head("amm_softmax", adaptive=True, ema_weight=0.5) for _ in range(2))
    samples = make_samples(torch.tensor([0.8]))
    head.row(samples)
    head.row(samples)
    assert head.mean_target_cosine == 0
    head.advance()
    restarted.load_state_dict(head.state_dict())
    assert restarted.row(samples).hard_margin.item() == pytest.approx(0.15 * 0.6)


def test_faces_without_identity_do_not_move_the_running_mean(make_head):
    head = make_head("amm_softmax", adaptive=True, ema_weight=0.5)
    cosine = torch.tensor([0.8, 0.0])
    head.row(Samples(cosine, torch.ones(2), torch.tensor([3, -1])))
    head.advance()
    assert head.mean_target_cosine.item() == pytest.approx(0.4)
    head.row(Samples(cosine, torch.ones(2), torch.tensor([-1, -1])))
    head.advance()
    assert head.mean_target_cosine.item() == pytest.approx(0.4)


def test_both_margins_warm_up(make_head, make_samples):
    head = make_head("amm_softmax")
    head.warm_up_margin(4)
    head.advance()
    samples = make_samples(torch.tensor([0.3], dtype=torch.float64))
    row = head.row(samples)
    assert head.target(samples.similarity, row).item() == pytest.approx(math.cos(math.acos(0.3) + 0.125))
    assert row.hard_margin.item() == pytest.approx(0.15 / 4)


def test_it_is_marked_as_a_reconstruction():
    entry = LOSSES.get("amm_softmax")
    assert entry.factory.reconstructed
    assert "reconstruction" in entry.factory.__doc__


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hard_margin", -0.1),
        ("margin", 28.6),
        ("indicator", "target"),
        ("negative_margin_kind", "prop"),
        ("ema_weight", 1.5),
        ("adaptive", "yes"),
    ],
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("amm_softmax"), key: value})


def test_proportional_margin_above_one_is_an_error_that_names_both_keys(loss_spec):
    with pytest.raises(ConfigError, match=r"loss\.hard_margin=1\.2.*loss\.negative_margin_kind=proportional"):
        LOSSES.build({**loss_spec("amm_softmax"), "hard_margin": 1.2, "negative_margin_kind": "proportional"})
