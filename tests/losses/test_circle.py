import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from frtrain.errors import ConfigError
from frtrain.losses import LOSSES

SETTINGS = [{}, {"scale": 64}, {"scale": 8, "relaxation": 0.4}, {"relaxation": 0}, {"scale": 30, "relaxation": 1}]


def test_mean_loss_is_the_golden_value(golden, make_head, dense):
    embedding, centres, labels = golden
    loss, _ = dense(make_head("circle", scale=64), centres)(embedding, labels)
    assert loss.item() == pytest.approx(99.921018, abs=1e-6)


@pytest.mark.parametrize("changes", SETTINGS)
def test_loss_is_the_softplus_form_of_the_paper(changes, golden, loss_spec, make_head, dense):
    embedding, centres, labels = golden
    spec = {**loss_spec("circle"), **changes}
    gamma, m = spec["scale"], spec["relaxation"]
    expected = 0.0
    cosines = cosine_similarity(embedding[:, None], centres, dim=2).tolist()
    for row, label in zip(cosines, labels.tolist(), strict=True):
        similar = row[label]
        positive = -gamma * max(1 + m - similar, 0) * (similar - (1 - m))
        negatives = [gamma * max(cosine + m, 0) * (cosine - m) for j, cosine in enumerate(row) if j != label]
        largest = max(negatives)
        total = largest + math.log(sum(math.exp(z - largest) for z in negatives)) + positive
        expected += (max(total, 0) + math.log1p(math.exp(-abs(total)))) / len(embedding)
    loss, _ = dense(make_head("circle", **changes), centres)(embedding, labels)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("relaxation", [0.25, 0.4])
def test_loss_and_gradients_are_those_of_pytorch_metric_learning_on_embedding_centre_pairs(
    relaxation, golden, make_head, dense
):
    reference = pytest.importorskip("pytorch_metric_learning.losses").CircleLoss(m=relaxation, gamma=64)
    embedding, centres, labels = golden
    ours = dense(make_head("circle", scale=64, relaxation=relaxation), centres)
    own_embedding = embedding.clone().requires_grad_()
    ours_loss, _ = ours(own_embedding, labels)
    ours_loss.backward()

    their_embedding, their_centres = embedding.clone().requires_grad_(), centres.clone().requires_grad_()
    their_loss = reference(their_embedding, labels, ref_emb=their_centres, ref_labels=torch.arange(6))
    their_loss.backward()
    torch.testing.assert_close(ours_loss, their_loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own_embedding.grad, their_embedding.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.centres.grad, their_centres.grad, rtol=1e-4, atol=1e-6)


def test_gradient_to_a_cosine_is_its_weight(make_head):
    head = make_head("circle", relaxation=0.25)
    cosines = torch.tensor([-1.0, -0.25, 0.0, 0.6, 1.0], dtype=torch.float64, requires_grad=True)
    (to_own,) = torch.autograd.grad(head.target(cosines, ()).sum(), cosines)
    (to_others,) = torch.autograd.grad(head.others(cosines, ()).sum(), cosines)
    assert to_own.tolist() == pytest.approx([2.25, 1.5, 1.25, 0.65, 0.25])
    assert to_others.tolist() == pytest.approx([0.0, 0.0, 0.25, 0.85, 1.25])


@pytest.mark.parametrize("turn", [0.3, 0.8, 1.3])
def test_boundary_between_two_classes_is_a_circle(turn, make_head):
    m = 0.25
    own = torch.tensor([1 - math.sqrt(2) * m * math.sin(turn)], dtype=torch.float64)
    other = torch.tensor([[math.sqrt(2) * m * math.cos(turn)]], dtype=torch.float64)
    head = make_head("circle", relaxation=m)
    assert (head.target(own, ()) - head.others(other, ())[0]).item() == pytest.approx(0, abs=1e-12)


def test_smaller_relaxation_is_a_larger_loss(faces, make_head, dense):
    embedding, centres, labels = faces
    losses = [dense(make_head("circle", relaxation=m), centres)(embedding, labels)[0] for m in (0.6, 0.4, 0.2, 0.0)]
    assert (torch.stack(losses).diff() > 0).all()


def test_relaxation_is_no_margin_to_warm_up(make_head):
    with pytest.raises(ValueError, match="no margin"):
        make_head("circle").warm_up_margin(10)


@pytest.mark.parametrize(("key", "value"), [("scale", 0), ("relaxation", -0.1), ("relaxation", 1.5)])
def test_impossible_value_is_an_error_that_names_the_key(key, value, loss_spec):
    with pytest.raises(ConfigError, match=rf"^loss\.{key}="):
        LOSSES.build({**loss_spec("circle"), key: value})
