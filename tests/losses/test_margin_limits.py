"""Margins at their limits: nothing left of them, and all of them."""

import pytest
import torch


@pytest.mark.parametrize("config", ["cosface", "am_softmax", "arcface"])
def test_margin_zero_is_normface(config, faces, make_head, dense):
    embedding, centres, labels = faces
    parent = dense(make_head("normface", scale=20, learn_scale=False), centres)(embedding, labels)[0]
    child = dense(make_head(config, scale=20, margin=0), centres)(embedding, labels)[0]
    torch.testing.assert_close(child, parent)


@pytest.mark.parametrize("config", ["cosface", "arcface", "sv_softmax", "sv_arc_softmax"])
def test_larger_margin_is_a_larger_loss(config, faces, make_head, dense):
    embedding, centres, labels = faces
    losses = [dense(make_head(config, margin=m), centres)(embedding, labels)[0] for m in (0.0, 0.2, 0.4, 0.6)]
    assert (torch.stack(losses).diff() > 0).all()


@pytest.mark.parametrize("config", ["arcface", "sv_arc_softmax"])
def test_detached_margin_gives_the_same_loss_and_another_gradient(config, faces, make_head, dense):
    embedding, centres, labels = faces
    gradients = []
    losses = []
    for mode in ("exact", "detached"):
        vectors = embedding.clone().requires_grad_()
        loss, _ = dense(make_head(config, margin_gradient=mode), centres)(vectors, labels)
        loss.backward()
        losses.append(loss)
        gradients.append(vectors.grad)
    assert torch.equal(*losses)
    assert not torch.allclose(*gradients)


def test_learned_scale_gets_the_gradient_of_the_loss(faces, make_head, dense):
    embedding, centres, labels = faces
    head = make_head("normface").double()
    loss, facts = dense(head, centres)(embedding, labels)
    loss.backward()
    step = 1e-5
    up, down = (
        dense(make_head("normface", learn_scale=False, scale=10 + sign * step), centres)(embedding, labels)[0]
        for sign in (1, -1)
    )
    assert head.learned_scale.grad.item() == pytest.approx(((up - down) / (2 * step)).item(), rel=1e-6)
    assert facts.diagnostics["scale"] == 10


def test_learned_scale_stays_positive(make_head):
    head = make_head("normface")
    with torch.no_grad():
        head.learned_scale.fill_(-3)
    assert head.scale_of(()).item() == pytest.approx(0.01)


def test_softmax_is_a_linear_layer_with_cross_entropy(faces, make_head, dense):
    embedding, centres, labels = faces
    classifier = dense(make_head("softmax"), centres)
    classifier.bias = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    expected = torch.nn.functional.cross_entropy(embedding @ centres.T + classifier.bias, labels)
    torch.testing.assert_close(classifier(embedding, labels)[0], expected)


def test_softmax_without_bias_has_no_bias_to_learn(faces, make_head, dense):
    names = {name for name, _ in dense(make_head("softmax", bias=False), faces[1]).named_parameters()}
    assert names == {"centres"}
