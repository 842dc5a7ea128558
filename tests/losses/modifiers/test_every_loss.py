"""What every modifier promises on every registered loss that it applies to, and that it refuses the others."""

import pytest
import torch

from frtrain.config import ModifiersConfig
from frtrain.errors import ConfigError
from frtrain.modifiers import Focal, HardMining, InterclassFilter, LabelSmoothing, Modifier, modified
from frtrain.modifiers.base import CONTRACT

ON = {
    "focal_gamma": 2.0, "hard_mining": 0.4, "label_smoothing": 0.1, "interclass_filter": 0.1, "margin_warmup_steps": 4,
}  # fmt: skip

EVERYTHING = {"hard_mining": 0.4, "label_smoothing": 0.1, "interclass_filter": 0.1, "margin_warmup_steps": 4}

APPLIES = {
    "focal_gamma": lambda head: head.reduction == "cross_entropy" and not head.terms,
    "hard_mining": lambda head: True,
    "label_smoothing": lambda head: head.reduction == "cross_entropy",
    "interclass_filter": lambda head: head.geometry == "cosine",
    "margin_warmup_steps": lambda head: head.has_margin,
}

NEUTRAL = {
    "focal_gamma": lambda head: Focal(head, 0.0),
    "hard_mining": lambda head: HardMining(head, 1.0),
    "label_smoothing": lambda head: LabelSmoothing(head, 0.0),
    "interclass_filter": lambda head: InterclassFilter(head, 1.1),
}


@pytest.fixture
def modified_head(loss, make_head, modifiers):
    """modified_head(key): the loss with that modifier; skips where the loss refuses it."""

    def build(key):
        head = make_head(loss)
        if not APPLIES[key](head):
            pytest.skip("refused")
        head = modified(head, modifiers(**{key: ON[key]}))
        head.set_up(7)
        return head

    return build


@pytest.mark.parametrize("key", ON)
def test_a_loss_takes_a_modifier_or_refuses_it_by_name(loss, key, make_head, modifiers):
    head = make_head(loss)
    config = modifiers(**{key: ON[key]})
    if APPLIES[key](head):
        assert modified(head, config).geometry == head.geometry
    else:
        with pytest.raises(ConfigError, match=rf"^modifiers\.{key}=.*loss={loss}\b"):
            modified(head, config)


@pytest.mark.parametrize("key", NEUTRAL)
def test_modifier_at_its_neutral_value_changes_nothing(loss, key, make_head, crowd, outcome, assert_same):
    if not APPLIES[key](make_head(loss)):
        pytest.skip("refused")
    assert_same(outcome(NEUTRAL[key](make_head(loss)), crowd), outcome(make_head(loss), crowd))


def test_all_modifiers_off_is_the_loss_itself(loss, make_head, modifiers):
    head = make_head(loss)
    assert modified(head, modifiers()) is head


@pytest.mark.parametrize("key", ON)
def test_loss_and_gradients_are_finite_in_float32(key, modified_head, crowd, golden, outcome):
    for embedding, centres, labels in (crowd, golden):
        found = outcome(modified_head(key), (embedding.float(), centres.float(), labels))
        for tensor in (found.loss, found.embedding, found.centres, *found.facts.diagnostics.values()):
            assert tensor.isfinite().all()


@pytest.mark.parametrize("key", ON)
def test_embeddings_along_and_against_their_centre_are_finite_in_float32(key, modified_head, outcome):
    centres = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize(centres)
    embedding = torch.cat([unit, -unit, torch.zeros(1, 32)])
    found = outcome(modified_head(key), (embedding, centres, torch.arange(15) % 7))
    for tensor in (found.loss, found.embedding, found.centres):
        assert tensor.isfinite().all()


@pytest.mark.parametrize("key", ON)
def test_faces_without_identity_contribute_nothing(key, modified_head, crowd, outcome):
    embedding, centres, labels = crowd
    known = labels >= 0
    all_, alone = (outcome(modified_head(key), batch) for batch in (crowd, (embedding[known], centres, labels[known])))
    torch.testing.assert_close(all_.loss, alone.loss)
    torch.testing.assert_close(all_.embedding[known], alone.embedding)
    assert not all_.embedding[~known].any()
    torch.testing.assert_close(all_.facts.diagnostics, alone.facts.diagnostics)


@pytest.mark.parametrize("key", ON)
def test_batch_without_any_identity_has_zero_loss_and_gradient(key, modified_head, crowd, outcome):
    embedding, centres, labels = crowd
    found = outcome(modified_head(key), (embedding, centres, torch.full_like(labels, -1)))
    assert found.loss == 0
    assert not found.embedding.any()
    assert not found.centres.any()


@pytest.mark.parametrize("key", ON)
def test_state_advances_and_travels_as_that_of_the_loss(key, modified_head, crowd, dense_of):
    embedding, centres, labels = crowd
    one, other = (dense_of(modified_head(key), centres) for _ in range(2))
    for _ in range(2):
        one(embedding, labels)
        one.advance()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(embedding, labels)[0], other(embedding, labels)[0])


def test_warmed_up_margin_is_the_loss_itself(modified_head, loss, make_head, crowd, dense_of):
    embedding, centres, labels = crowd
    warming, plain = (dense_of(head, centres) for head in (modified_head("margin_warmup_steps"), make_head(loss)))
    for _ in range(4):
        warming(embedding, labels)
        plain(embedding, labels)
        warming.advance()
        plain.advance()
    torch.testing.assert_close(warming(embedding, labels)[0], plain(embedding, labels)[0], rtol=1e-6, atol=1e-6)


def test_all_modifiers_together_are_finite_and_each_acts(loss, make_head, modifiers, crowd, outcome):
    possible = {key: value for key, value in EVERYTHING.items() if APPLIES[key](make_head(loss))}
    head = modified(make_head(loss), modifiers(**possible))
    head.set_up(7)
    found = outcome(head, crowd)
    for tensor in (found.loss, found.embedding, found.centres):
        assert tensor.isfinite().all()
    wrapped = []
    while isinstance(head, Modifier):
        wrapped.append(type(head).__name__)
        head = head.inner
    names = {"hard_mining": "HardMining", "label_smoothing": "LabelSmoothing", "interclass_filter": "InterclassFilter"}
    assert wrapped == [name for key, name in names.items() if key in possible]


def test_everything_that_a_head_can_be_asked_is_asked_of_the_inner_head(loss, make_head):
    head = make_head(loss)
    outer = Modifier(Modifier(head))
    assert {"geometry", "reduction", "scale", "row", "others", "advance", "sample_losses"} <= CONTRACT
    for name in CONTRACT:
        assert getattr(outer, name) == getattr(head, name)


def test_parameters_of_a_modified_loss_are_trained(make_head, crowd, outcome):
    head = HardMining(make_head("normface"), 0.5)
    outcome(head, crowd)
    (learned,) = head.parameters()
    assert learned.grad != 0


def test_focal_factor_on_smoothed_labels_is_refused(make_head, modifiers):
    with pytest.raises(ConfigError, match=r"^modifiers\.focal_gamma=2\.0: .*modifiers\.label_smoothing"):
        modified(make_head("cosface"), modifiers(focal_gamma=2.0, label_smoothing=0.1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("focal_gamma", -1.0), ("hard_mining", 0.0), ("hard_mining", 1.1), ("label_smoothing", 1.0),
        ("interclass_filter", 1.0), ("interclass_filter", -1.0), ("margin_warmup_steps", -1),
    ],
)  # fmt: skip
def test_impossible_value_is_an_error(key, value, modifiers):
    with pytest.raises(ValueError, match=key):
        modifiers(**{key: value})


def test_every_setting_is_tested_here():
    assert ModifiersConfig.model_fields.keys() == ON.keys()
