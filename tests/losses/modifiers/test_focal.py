import math

import pytest
import torch

from frtrain.modifiers import Focal


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_is_the_mean_of_the_samples_own_factors(loss, gamma, make_head, crowd, outcome, weighted, assert_same):
    if make_head(loss).reduction != "cross_entropy" or make_head(loss).terms:
        pytest.skip("refused")
    recorder = weighted(make_head(loss))
    outcome(recorder, crowd)
    p = (-recorder.bare).exp()
    factors = (1 - p) ** gamma
    slopes = factors + gamma * (1 - p) ** (gamma - 1) * p * recorder.bare  # d (1-p)^gamma CE / d CE
    expected = outcome(weighted(make_head(loss), slopes), crowd)
    expected.loss += ((factors - slopes) * recorder.recorded)[crowd[2] >= 0].mean()  # a penalty stays as it is
    assert_same(outcome(Focal(make_head(loss), gamma), crowd), expected)


def test_focal_is_not_the_factor_of_the_mean_loss(make_head, golden, outcome, weighted):
    mean = outcome(make_head("cosface", scale=4), golden).loss
    of_mean = (1 - math.exp(-mean)) ** 2 * mean
    assert abs(outcome(Focal(make_head("cosface", scale=4), 2.0), golden).loss - of_mean) > 1e-3


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_that_are_certain_or_hopeless_have_finite_gradients(gamma, dtype, make_head, make_samples):
    ce = torch.tensor([0.0, 1e-38, 1e-12, 1e-3, 1.0, 88.0, 6e4], dtype=dtype, requires_grad=True)
    found = Focal(make_head("cosface"), gamma).sample_losses(ce, make_samples(torch.zeros(7, dtype=dtype)))
    found.sum().backward()
    assert found.isfinite().all()
    assert ce.grad.isfinite().all()
    assert (ce.grad >= 0).all()
    assert found[-1] == 6e4
    assert ce.grad[-1] == 1


def test_factor_of_a_nearly_certain_sample_keeps_its_digits_in_float32(make_head, make_samples):
    ce = torch.tensor([1e-9])
    found = Focal(make_head("cosface"), 1.0).sample_losses(ce, make_samples(torch.zeros(1)))
    assert found.item() == pytest.approx(1e-18, rel=1e-5)
