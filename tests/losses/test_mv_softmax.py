import math

import pytest
import torch

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES


def loss_and_gradient(head, faces, dense):
    embedding, centres, labels = faces
    embedding = embedding.clone().requires_grad_()
    loss, _ = dense(head, centres)(embedding, labels)
    loss.backward()
    return loss.detach(), embedding.grad


@pytest.mark.parametrize(
    ("config", "changes", "expected"),
    [
        ("mv_softmax", {}, 35.605297),
        ("mv_softmax", {"kind": "fixed"}, 32.134114),
        ("mv_arc_softmax", {"beyond_pi": "none"}, 31.204382),
        ("mv_arc_softmax", {"beyond_pi": "none", "kind": "fixed"}, 28.786849),
    ],
)
def test_mean_loss_is_the_golden_value(config, changes, expected, golden, make_head, dense):
    loss, _ = loss_and_gradient(make_head(config, **changes), golden, dense)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def formula(cosines, label, scale, kind, margin_kind, margin, t):
    """-log of the paper's fraction, with the factor h on the exponentials."""
    theta = math.acos(cosines[label])
    arc = math.cos(theta + margin) if theta + margin <= math.pi else cosines[label] - (1 - math.cos(margin))
    margined = {"none": cosines[label], "am": cosines[label] - margin, "arc": arc}[margin_kind]
    own = math.exp(scale * margined)
    wrong = 0.0
    for k, cosine in enumerate(cosines):
        if k == label:
            continue
        indicator = 1 if margined - cosine < 0 else 0
        h = math.exp(scale * t * indicator * (1 if kind == "fixed" else cosine + 1))
        wrong += h * math.exp(scale * cosine)
    return -math.log(own / (own + wrong))


@pytest.mark.parametrize("kind", ["adaptive", "fixed"])
@pytest.mark.parametrize(
    ("margin_kind", "margin"), [("none", 0.3), ("am", 0.35), ("am", 0.1), ("arc", 0.5), ("arc", 1.2)]
)
@pytest.mark.parametrize("t", [0.05, 0.4])
def test_loss_is_the_formula_of_the_paper(kind, margin_kind, margin, t, golden, make_head, dense):
    embedding, centres, labels = golden
    cosines = torch.nn.functional.cosine_similarity(embedding[:, None], centres[None], dim=2).tolist()
    setting = {"scale": 8, "kind": kind, "margin_kind": margin_kind, "margin": margin, "t": t}
    expected = sum(formula(row, label, **setting) for row, label in zip(cosines, labels.tolist(), strict=True)) / 4
    loss, _ = loss_and_gradient(make_head("mv_softmax", **setting), golden, dense)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("margin_kind", ["none", "am", "arc"])
@pytest.mark.parametrize("easy_margin", [False, True])
def test_adaptive_is_sv_softmax_with_t_counted_from_one(margin_kind, easy_margin, golden, make_head, dense):
    same = {"margin_kind": margin_kind, "easy_margin": easy_margin}
    mv = loss_and_gradient(make_head("mv_softmax", t=0.3, **same), golden, dense)
    sv = loss_and_gradient(make_head("sv_softmax", t=1.3, **same), golden, dense)
    torch.testing.assert_close(mv, sv)


@pytest.mark.parametrize("kind", ["adaptive", "fixed"])
@pytest.mark.parametrize(
    ("changes", "parent", "parent_changes"),
    [
        ({"margin_kind": "none"}, "normface", {"learn_scale": False}),
        ({"margin_kind": "am"}, "cosface", {}),
        ({"margin_kind": "arc", "margin": 0.5}, "arcface", {}),
    ],
)
def test_t_zero_is_the_margin_parent(kind, changes, parent, parent_changes, faces, make_head, dense):
    ours = loss_and_gradient(make_head("mv_softmax", kind=kind, t=0, **changes), faces, dense)
    theirs = loss_and_gradient(make_head(parent, scale=32, **parent_changes), faces, dense)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("kind", "raised", "slope"), [("adaptive", 1.2 * 0.6 + 0.2, 1.2), ("fixed", 0.8, 1.0)])
def test_only_misclassified_vectors_are_raised(kind, raised, slope, make_head, make_samples):
    head = make_head("mv_softmax", kind=kind, margin=0.25)
    row = head.row(make_samples(torch.tensor([0.75], dtype=torch.float64)))
    cosines = torch.tensor([[0.6, 0.5, 0.4, -0.2]], dtype=torch.float64, requires_grad=True)
    others = head.others(cosines, row)
    others.sum().backward()
    assert others[0].tolist() == pytest.approx([raised, 0.5, 0.4, -0.2])
    assert cosines.grad[0].tolist() == pytest.approx([slope, 1.0, 1.0, 1.0])
    assert head.class_diagnostics(cosines, row)["support_vectors"][0].tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", ["adaptive", "fixed"])
def test_misclassified_vectors_are_never_lowered_and_keep_their_order(kind, make_head, make_samples):
    head = make_head("mv_softmax", kind=kind, t=0.3)
    row = head.row(make_samples(torch.tensor([-0.7])))
    cosines = torch.linspace(-1, 1, 41)[None]
    others = head.others(cosines, row)
    assert (others >= cosines).all()
    assert (others.diff() > 0).all()


@pytest.mark.parametrize("config", ["mv_softmax", "sv_softmax"])
def test_t_warms_up_from_no_emphasis_at_all(config, make_head, make_samples):
    off, full = {"mv_softmax": (0.0, 0.4), "sv_softmax": (1.0, 1.4)}[config]
    head = make_head(config, t=full, t_warmup_steps=4)
    cosines = torch.linspace(-1, 1, 21)[None]
    for step in range(6):
        t = off + (full - off) * min(step / 4, 1)
        now, expected = (
            some.others(cosines, some.row(make_samples(torch.tensor([0.1]))))
            for some in (head, make_head(config, t=t, t_warmup_steps=0))
        )
        torch.testing.assert_close(now, expected)
        head.advance()


def test_warm_up_goes_on_after_a_restart(make_head, make_samples):
    head, restarted = (make_head("mv_softmax", kind="fixed", t_warmup_steps=4) for _ in range(2))
    head.advance()
    restarted.load_state_dict(head.state_dict())
    row = restarted.row(make_samples(torch.tensor([0.0])))
    assert restarted.others(torch.tensor([[0.5]]), row).item() == pytest.approx(0.5 + 0.2 / 4)


def test_easy_margin_is_off_unless_asked_for(loss_spec):
    assert loss_spec("mv_softmax")["easy_margin"] is False


def test_mv_arc_softmax_is_mv_softmax_on_the_margin_of_arcface(loss_spec):
    expected = {**loss_spec("mv_softmax"), "margin_kind": "arc", "margin": loss_spec("arcface")["margin"]}
    assert loss_spec("mv_arc_softmax") == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [("t", -0.1), ("kind", "soft"), ("margin_kind", "cos"), ("margin", -0.35), ("t_warmup_steps", 0.5), ("scale", 0)],
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("mv_softmax"), key: value})
