import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir

from frtrain.errors import ConfigError
from frtrain.losses.noise import standard_normal

VARIANTS = ["elasticface", "elasticface_cos", "elasticface_arc_plus", "elasticface_cos_plus"]


def margins(head, make_samples, own, labels=None):
    return head.row(make_samples(own, labels=labels)).margin


def handed_out(drawn: list[float], cosines: list[float], order: str) -> list[float]:
    """Margins by rank: `intended` as the paper says, `released` as the authors index them."""
    ascending = sorted(drawn)
    nearest_first = sorted(range(len(cosines)), key=lambda i: -cosines[i])
    if order == "released":
        return [ascending[i] for i in nearest_first]
    return [ascending[nearest_first.index(i)] for i in range(len(cosines))]


@pytest.mark.parametrize(
    ("order", "expected"), [("intended", [0.55, 0.45, 0.50, 0.48]), ("released", [0.48, 0.55, 0.50, 0.45])]
)
@pytest.mark.parametrize("drawn", [[0.45, 0.48, 0.50, 0.55], [0.50, 0.55, 0.48, 0.45]])
def test_ranks_hand_out_the_margins_of_the_worked_example(order, expected, drawn, make_head):
    cosines = torch.tensor([0.1, 0.9, 0.5, 0.7])
    head = make_head("elasticface_arc_plus", order=order)
    known = torch.ones(4, dtype=torch.bool)
    assert head.by_rank(torch.tensor(drawn), cosines, known, torch.arange(4)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("order", ["intended", "released"])
def test_ranks_are_among_the_faces_with_an_identity(order, make_head, make_samples):
    head = make_head("elasticface_arc_plus", order=order)
    own = torch.tensor([0.2, 0.1, 0.9, -0.4, 0.5, 0.7, 0.3])
    labels = torch.tensor([-1, 0, 0, -1, 0, 0, -1])
    crowd = margins(head, make_samples, own, labels)
    alone = margins(head, make_samples, own[labels >= 0])
    assert torch.equal(crowd[labels >= 0], alone)
    assert crowd.isfinite().all()


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("order", ["intended", "released"])
def test_loss_is_the_formula_over_several_steps(config, order, golden, make_head, dense):
    embedding, centres, labels = golden
    head = make_head(config, order=order, seed=11)
    classifier = dense(head, centres)
    cosines = F.cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    for step in range(3):
        noise = standard_normal(11, torch.tensor(step), torch.arange(4), torch.float64).tolist()
        drawn = [head.margin + head.sigma * value for value in noise]
        if head.plus:
            own = [row[label] for row, label in zip(cosines, labels.tolist(), strict=True)]
            drawn = handed_out(drawn, own, order)
        expected = 0.0
        for row, label, m in zip(cosines, labels.tolist(), drawn, strict=True):
            theta = math.acos(row[label])
            beyond = row[label] - 1 + math.cos(m)
            arc = math.cos(theta + m) if theta + m <= math.pi else beyond
            logits = [64 * c for c in row]
            logits[label] = 64 * (arc if head.kind == "arc" else row[label] - m)
            expected += math.log(sum(math.exp(z - logits[label]) for z in logits)) / len(labels)
        loss, facts = classifier(embedding, labels)
        assert loss.item() == pytest.approx(expected, abs=1e-9)
        assert facts.diagnostics["margin"].item() == pytest.approx(sum(drawn) / 4)
        classifier.advance()


@pytest.mark.parametrize(
    ("config", "parent"),
    [
        ("elasticface", ("arcface", {})),
        ("elasticface_arc_plus", ("arcface", {})),
        ("elasticface_cos", ("cosface", {})),
        ("elasticface_cos_plus", ("cosface", {})),
    ],
)
def test_without_spread_it_is_its_margin_parent(config, parent, faces, make_head, dense):
    embedding, centres, labels = faces
    parent_loss = dense(make_head(parent[0], **parent[1]), centres)(embedding, labels)[0]
    torch.testing.assert_close(dense(make_head(config, sigma=0), centres)(embedding, labels)[0], parent_loss)


@pytest.mark.parametrize("config", VARIANTS)
def test_gradient_is_that_of_the_loss_in_every_variant(config, faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head(config), centres)

    def of(embedding, centres):
        return torch.func.functional_call(classifier, {"centres": centres}, (embedding, labels))[0]

    assert torch.autograd.gradcheck(of, (embedding.requires_grad_(), centres.requires_grad_()))


@pytest.mark.parametrize("config", VARIANTS)
def test_faces_without_identity_change_nothing_in_any_variant(config, faces, make_head, dense):
    embedding, centres, labels = faces
    strangers = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mixed = torch.stack([strangers, embedding], dim=1).flatten(0, 1)
    mixed_labels = torch.stack([torch.full_like(labels, -1), labels], dim=1).flatten()
    alone, _ = dense(make_head(config), centres)(embedding, labels)
    crowd, _ = dense(make_head(config), centres)(mixed, mixed_labels)
    torch.testing.assert_close(crowd, alone)


def test_margins_are_normal_around_their_mean(make_head, make_samples):
    drawn = margins(make_head("elasticface"), make_samples, torch.zeros(100_000, dtype=torch.float64))
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.001)
    assert drawn.std().item() == pytest.approx(0.05, abs=0.001)


def test_margins_are_drawn_anew_once_a_step_is_taken_and_not_before(make_head, make_samples):
    head, own = make_head("elasticface"), torch.zeros(8)
    first, repeated = (margins(head, make_samples, own) for _ in range(2))
    head.advance()
    second = margins(head, make_samples, own)
    assert torch.equal(first, repeated)
    assert not torch.isclose(first, second).any()


def test_draws_go_on_after_a_restart(make_head, make_samples):
    head, resumed, own = make_head("elasticface"), make_head("elasticface"), torch.zeros(8)
    for _ in range(3):
        head.advance()
    resumed.load_state_dict(head.state_dict())
    assert torch.equal(margins(resumed, make_samples, own), margins(head, make_samples, own))


def test_another_seed_draws_other_margins(make_head, make_samples):
    one, two = (margins(make_head("elasticface", seed=seed), make_samples, torch.zeros(8)) for seed in (1, 2))
    assert not torch.isclose(one, two).any()


def test_largest_margin_goes_to_the_farthest_face(make_head, make_samples):
    own = torch.tensor([0.3, -0.2, 0.8, 0.1])
    drawn = margins(make_head("elasticface_arc_plus"), make_samples, own)
    assert drawn.argsort().tolist() == own.argsort(descending=True).tolist()


def test_margin_on_the_angle_is_not_let_below_zero(make_head, make_samples):
    own = torch.zeros(1000)
    assert margins(make_head("elasticface", margin=0.1, sigma=1.0), make_samples, own).min() == 0
    assert margins(make_head("elasticface_cos", margin=0.1, sigma=1.0), make_samples, own).min() < 0


def test_margins_carry_no_gradient(make_head, make_samples):
    own = torch.tensor([0.3, -0.2], requires_grad=True)
    assert not margins(make_head("elasticface_arc_plus"), make_samples, own).requires_grad


@pytest.mark.parametrize(
    ("config", "kind", "margin", "sigma", "plus"),
    [
        ("elasticface", "arc", 0.5, 0.05, False),
        ("elasticface_cos", "cos", 0.35, 0.05, False),
        ("elasticface_arc_plus", "arc", 0.5, 0.0175, True),
        ("elasticface_cos_plus", "cos", 0.35, 0.02, True),
    ],
)
def test_variants_have_the_settings_of_the_authors(config, kind, margin, sigma, plus, loss_spec):
    spec = loss_spec(config)
    assert (spec["kind"], spec["margin"], spec["sigma"], spec["plus"]) == (kind, margin, sigma, plus)


def test_draws_follow_the_seed_of_the_run():
    configs = Path(__file__).parents[2] / "configs"
    with initialize_config_dir(version_base="1.3", config_dir=str(configs)):
        assert compose("train", overrides=["loss=elasticface", "seed=42"]).loss.seed == 42


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "am"), ("sigma", -0.1), ("order", "random"), ("seed", -1), ("margin", -0.5)]
)
def test_impossible_value_is_an_error_that_names_the_key(key, value, make_head):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        make_head("elasticface", **{key: value})
