import math

import pytest
import torch
import torch.nn.functional as F

from frtrain.classifier.reduction import REDUCTIONS


def logits(scale=1.0):
    return scale * torch.randn(5, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_merged_blocks_are_the_whole(name):
    reduction, others = REDUCTIONS[name], logits()
    left, right = (reduction.block(block) for block in others.split([4, 5], dim=1))
    torch.testing.assert_close(reduction.merge(left, right), reduction.block(others))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_neutral_column_adds_nothing(name):
    reduction, others = REDUCTIONS[name], logits()
    padded = torch.cat([others, torch.full((5, 1), reduction.neutral, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(reduction.block(padded), reduction.block(others))


def test_cross_entropy_is_that_of_the_joined_logits():
    reduction, target, others = REDUCTIONS["cross_entropy"], logits()[:, 0], logits()[:, 1:]
    expected = F.cross_entropy(logits(), torch.zeros(5, dtype=torch.long), reduction="none")
    torch.testing.assert_close(reduction.loss(target, reduction.block(others)), expected)


def test_cross_entropy_near_zero_keeps_its_digits_in_float32():
    reduction = REDUCTIONS["cross_entropy"]
    loss = reduction.loss(torch.tensor([64.0]), reduction.block(torch.tensor([[40.0, -64.0]])))
    assert loss.item() == pytest.approx(3.775134544e-11, rel=1e-5)


def test_cross_entropy_of_hopeless_logits_is_finite():
    reduction = REDUCTIONS["cross_entropy"]
    target = torch.tensor([-3e4], requires_grad=True)
    loss = reduction.loss(target, reduction.block(torch.tensor([[3e4, 3e4]])))
    loss.sum().backward()
    assert loss.item() == pytest.approx(6e4 + math.log(2))
    assert target.grad.item() == -1


@pytest.mark.parametrize("difference", [-30.0, 0.0, 19.99, 20.01, 39.0])
def test_cross_entropy_of_two_classes_is_exact_in_float64(difference):
    zero, others = torch.zeros(1, dtype=torch.float64), torch.tensor([[difference]], dtype=torch.float64)
    loss = REDUCTIONS["cross_entropy"].loss(zero, REDUCTIONS["cross_entropy"].block(others))
    assert loss.item() == pytest.approx(max(difference, 0) + math.log1p(math.exp(-abs(difference))), rel=1e-14)


def test_sum_adds_target_and_others():
    reduction = REDUCTIONS["sum"]
    torch.testing.assert_close(reduction.loss(logits()[:, 0], reduction.block(logits()[:, 1:])), logits().sum(dim=1))
