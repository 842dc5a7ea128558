import math

import pytest
import torch

from frtrain.losses.softplus import softplus

POINTS = [-700.0, -60.0, -20.01, -1e-9, 0.0, 1.0, 19.99, 20.01, 30.0, 36.5, 39.99, 40.01, 700.0]


def exact(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@pytest.mark.parametrize("x", POINTS)
def test_softplus_is_exact_to_the_last_digits_of_float64(x):
    assert softplus(torch.tensor(x, dtype=torch.float64)).item() == pytest.approx(exact(x), rel=4e-16, abs=0)


@pytest.mark.parametrize("x", [-80.0, -20.01, 0.0, 20.01, 39.9, 89.6, 3e38])
def test_softplus_neither_overflows_nor_loses_small_values_in_float32(x):
    x = torch.tensor(x, requires_grad=True)
    found = softplus(x)
    found.backward()
    assert found.item() == pytest.approx(exact(x.item()), rel=2e-7, abs=0)
    assert x.grad.item() == pytest.approx(1 / (1 + math.exp(-x.item())), rel=2e-7)
