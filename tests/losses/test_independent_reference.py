"""Against pytorch-metric-learning, written by others from the same papers."""

import math

import pytest
import torch

reference = pytest.importorskip("pytorch_metric_learning.losses")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(8)
    embedding = torch.randn(16, 12, generator=generator, dtype=torch.float64)
    centres = torch.randn(10, 12, generator=generator, dtype=torch.float64)
    return embedding, centres, torch.randint(0, 10, (16,), generator=generator)


@pytest.mark.parametrize(
    ("config", "changes", "theirs"),
    [
        (
            "arcface",
            {"beyond_pi": "classic"},
            lambda: reference.ArcFaceLoss(10, 12, margin=math.degrees(0.5), scale=64),
        ),
        ("cosface", {}, lambda: reference.CosFaceLoss(10, 12, margin=0.35, scale=64)),
        (
            "normface",
            {"scale": 20, "learn_scale": False},
            lambda: reference.NormalizedSoftmaxLoss(10, 12, temperature=1 / 20),
        ),
    ],
)
def test_loss_and_gradients_are_those_of_the_reference(config, changes, theirs, batch, make_head, dense):
    embedding, centres, labels = batch
    other = theirs().double()
    other.W = torch.nn.Parameter(centres.T.clone())
    other_embedding = embedding.clone().requires_grad_()
    other_loss = other(other_embedding, labels)
    other_loss.backward()

    ours = dense(make_head(config, **changes), centres)
    embedding.requires_grad_()
    loss, _ = ours(embedding, labels)
    loss.backward()

    torch.testing.assert_close(loss, other_loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(embedding.grad, other_embedding.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.centres.grad, other.W.grad.T, rtol=1e-4, atol=1e-6)
