"""Every loss on every engine: the same loss, gradients and facts as the dense matrix that autograd differentiates."""

import pytest
import torch

from frtrain.errors import ConfigError

ENGINES = [
    ("chunked", {"chunk": 1}),
    ("chunked", {"chunk": 5}),  # does not divide 13
    ("chunked", {"chunk": 5, "keep_mib": 0.0009}),  # room for some blocks only
    ("chunked", {"chunk": 13, "keep_mib": 1.0}),
    ("sharded", {}),
    ("sampled", {"rate": 1.0, "chunk": 4}),
]


def outcome(classifier, faces, steps=1):
    embedding, labels = faces
    for _ in range(steps):
        classifier.zero_grad()
        leaf = embedding.clone().requires_grad_()
        loss, facts = classifier(leaf, labels)
        loss.backward()
        classifier.advance()
    gradients = {name: parameter.grad for name, parameter in classifier.named_parameters()}
    state = {name: buffer for name, buffer in classifier.named_buffers() if name != "draws"}
    return {
        "loss": loss.detach(),
        "embedding": leaf.grad,
        **gradients,
        "accuracy": facts.accuracy,
        **facts.diagnostics,
        **state,
    }


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        tolerance = 1e-9 * max(1e-6, expected.double().abs().max().item())
        torch.testing.assert_close(
            ours[name], expected, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(("name", "changes"), ENGINES)
def test_engine_is_the_dense_one_to_nine_digits(every_loss, name, changes, engine, faces):
    dense = outcome(engine(every_loss, "dense"), faces)
    assert_same(outcome(engine(every_loss, name, **changes), faces), dense)


MODIFIERS = [
    {"focal_gamma": 2.0},
    {"hard_mining": 0.5},
    {"label_smoothing": 0.1},
    {"interclass_filter": 0.4},
    {"margin_warmup_steps": 4},
    {"label_smoothing": 0.1, "interclass_filter": 0.4, "hard_mining": 0.5},
]


@pytest.mark.parametrize("modifiers", MODIFIERS, ids=lambda modifiers: "+".join(modifiers))
def test_modified_loss_is_the_same_in_blocks(every_loss, modifiers, engine, faces):
    try:
        dense = engine(every_loss, "dense", modifiers=modifiers)
    except ConfigError as refused:
        pytest.skip(str(refused))
    blocks = engine(every_loss, "chunked", chunk=5, modifiers=modifiers)
    assert_same(outcome(blocks, faces, steps=2), outcome(dense, faces, steps=2))


def test_state_evolves_alike_over_steps(every_loss, engine, faces):
    dense = outcome(engine(every_loss, "dense"), faces, steps=3)
    assert_same(outcome(engine(every_loss, "chunked", chunk=4), faces, steps=3), dense)


def test_two_classes(every_loss, engine, faces):
    faces = (faces[0], faces[1] % 2)
    dense = outcome(engine(every_loss, "dense", classes=2), faces)
    assert_same(outcome(engine(every_loss, "chunked", classes=2, chunk=1), faces), dense)


def test_one_sample(every_loss, engine, faces):
    faces = (faces[0][:1], faces[1][:1])
    dense = outcome(engine(every_loss, "dense"), faces)
    assert_same(outcome(engine(every_loss, "chunked", chunk=5), faces), dense)


def test_no_known_sample_gives_zero_loss_and_gradient(every_loss, engine, faces):
    result = outcome(engine(every_loss, "chunked", chunk=5), (faces[0], torch.full_like(faces[1], -1)))
    assert result["loss"] == 0
    assert not result["embedding"].any()
    assert not result["centres"].any()
