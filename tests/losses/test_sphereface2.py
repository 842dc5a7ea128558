import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.errors import ConfigError

MARGINS = {"C": 0.4, "A": 0.5, "M": 1.5}


def g(cosine: float, t: float) -> float:
    return 2 * ((cosine + 1) / 2) ** t - 1


def own(theta: float, kind: str, m: float, t: float) -> float:
    if kind == "C":
        return g(math.cos(theta), t) - m
    return g(math.cos(min(theta + m if kind == "A" else m * theta, math.pi)), t)


def wrong(theta: float, kind: str, m: float, t: float) -> float:
    return g(math.cos(theta), t) + (m if kind == "C" else 0)


def test_mean_loss_in_the_convention_of_wespeaker_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    head = make_head("sphereface2", scale=32, margin=0.2, loss_weight=32, initial_bias=0)
    assert dense(head, centres)(embedding, labels)[0].item() == pytest.approx(16.296649, abs=1e-6)


@pytest.mark.parametrize("kind", ["C", "A", "M"])
@pytest.mark.parametrize(("share", "t", "bias"), [(0.7, 3.0, None), (0.5, 1.0, -2.0), (0.9, 2.5, 1.0)])
def test_loss_is_the_formula(kind, share, t, bias, golden, make_head, dense):
    embedding, centres, labels = golden
    m = MARGINS[kind]
    head = make_head("sphereface2", margin_kind=kind, margin=m, positive_share=share, t=t, initial_bias=bias).double()
    classifier = dense(head, centres)
    b = head.shared_bias.item()
    expected = 0.0
    for row, label in zip(
        F.cosine_similarity(embedding[:, None], centres, dim=2).tolist(), labels.tolist(), strict=True
    ):
        for j, cosine in enumerate(row):
            if j == label:
                expected += share * math.log1p(math.exp(-(40 * own(math.acos(cosine), kind, m, t) + b)))
            else:
                expected += (1 - share) * math.log1p(math.exp(40 * wrong(math.acos(cosine), kind, m, t) + b))
    loss, facts = classifier(embedding, labels)
    assert loss.item() == pytest.approx(50 / 40 * expected / len(labels), rel=1e-9)
    assert facts.diagnostics["bias"].item() == pytest.approx(b)


def test_it_is_the_authors_weight_times_the_mean_over_samples_and_classes(golden, make_head, dense):
    embedding, centres, labels = golden
    head = make_head("sphereface2", margin=0, t=1, positive_share=0.5, initial_bias=0)
    binary = F.one_hot(labels, 6).double()
    cosines = F.cosine_similarity(embedding[:, None], centres, dim=2)
    mean = F.binary_cross_entropy_with_logits(40 * cosines, binary)
    torch.testing.assert_close(dense(head, centres)(embedding, labels)[0], 50 * 6 / 40 * 0.5 * mean)


@pytest.mark.parametrize(
    ("classes", "changes", "bias"),
    [(10_572, {}, 5.58165), (85_742, {"scale": 64, "margin": 0.5, "positive_share": 0.8}, 6.02725)],
)
def test_bias_starts_at_the_published_value(classes, changes, bias, make_head):
    head = make_head("sphereface2", **changes)
    head.set_up(classes)
    assert head.shared_bias.item() == pytest.approx(bias, abs=1e-5)
    assert head.shared_bias.dim() == 0


@pytest.mark.parametrize("kind", ["C", "A", "M"])
@pytest.mark.parametrize("classes", [2, 3, 7, 1000])
def test_bias_starts_where_its_gradients_cancel_at_right_angles(kind, classes, make_head, dense):
    head = make_head("sphereface2", margin_kind=kind, margin=MARGINS[kind]).double()
    centres = torch.eye(classes, classes + 1, dtype=torch.float64)
    classifier = dense(head, centres)
    with torch.no_grad():  # in float64, where the loss is
        head.shared_bias.fill_(head.balanced_bias(classes))
    embedding = torch.eye(classes + 1, dtype=torch.float64)[-1:]
    loss, _ = classifier(embedding, torch.tensor([0]))
    loss.backward()
    assert head.shared_bias.grad.item() == pytest.approx(0, abs=1e-7)


def test_fixed_first_bias_does_not_depend_on_the_number_of_classes(make_head):
    head = make_head("sphereface2", initial_bias=-1.5)
    head.set_up(10_572)
    assert head.shared_bias.item() == -1.5


def test_bias_learns_and_travels_in_the_state(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("sphereface2"), centres)
    classifier(embedding, labels)[0].backward()
    assert classifier.head.shared_bias.grad != 0
    assert "shared_bias" in classifier.head.state_dict()


def test_all_kinds_without_margin_are_the_same_loss(faces, make_head, dense):
    embedding, centres, labels = faces
    losses = [
        dense(make_head("sphereface2", margin_kind=kind, margin=m, initial_bias=1), centres)(embedding, labels)[0]
        for kind, m in [("C", 0), ("A", 0), ("M", 1)]
    ]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


@pytest.mark.parametrize("kind", ["C", "A", "M"])
def test_gradient_is_that_of_the_loss_for_every_kind(kind, faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("sphereface2", margin_kind=kind, margin=MARGINS[kind]), centres).double()

    def of(embedding, centres, bias):
        state = {"centres": centres, "head.shared_bias": bias}
        return torch.func.functional_call(classifier, state, (embedding, labels))[0]

    bias = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of, (embedding.requires_grad_(), centres.requires_grad_(), bias))


@pytest.mark.parametrize("kind", ["C", "A", "M"])
@pytest.mark.parametrize("t", [1.0, 1.5, 3.0])
def test_poles_are_finite_in_float32(kind, t, make_head):
    near = 1 - torch.finfo(torch.float32).eps / 2
    cosine = torch.tensor([1.0, near, 1 + 4e-7, -1.0, -near, -1 - 4e-7], requires_grad=True)
    head = make_head("sphereface2", margin_kind=kind, margin=MARGINS[kind], t=t)
    target, others = head.target(cosine, ()), head.others(cosine[None], ())
    (slope,) = torch.autograd.grad(target.sum() + others.sum(), cosine)
    for tensor in (target, others, slope):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("kind", ["C", "A", "M"])
def test_detached_margin_gives_the_same_loss_and_the_slope_of_the_scale(kind, faces, make_head, dense):
    embedding, centres, labels = faces
    heads = [
        make_head("sphereface2", margin_kind=kind, margin=MARGINS[kind], margin_gradient=mode)
        for mode in ("exact", "detached")
    ]
    assert torch.equal(*(dense(head, centres)(embedding, labels)[0] for head in heads))
    cosine = torch.tensor([-0.4, 0.1, 0.6], dtype=torch.float64, requires_grad=True)
    others = heads[1].others(cosine[None], ())
    share = 1 - torch.exp(-others.detach()[0] / 0.3)  # the logistic function of the logit
    torch.testing.assert_close(torch.autograd.grad(others.sum(), cosine)[0], 0.3 * 40 * share)


def test_logit_far_beyond_the_range_of_exp_is_finite_in_float32(make_head):
    head = make_head("sphereface2", scale=1000, initial_bias=0)
    assert head.others(torch.tensor([[1.0]]), ()).item() == pytest.approx(0.3 * 1400)


@pytest.mark.parametrize(
    ("key", "value"),
    [("margin_kind", "B"), ("margin", -0.1), ("positive_share", 1), ("positive_share", 0), ("t", 0.5), ("scale", 0)],
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("sphereface2", **{key: value})


@pytest.mark.parametrize(("kind", "margin"), [("M", 0.4), ("A", 3.5)])
def test_margin_of_another_kind_is_an_error_that_names_both_keys(kind, margin, make_head):
    with pytest.raises(ConfigError, match=rf"margin={margin} .*margin_kind={kind}"):
        make_head("sphereface2", margin_kind=kind, margin=margin)
