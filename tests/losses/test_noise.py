import math

import pytest
import torch

from frtrain.losses.noise import hashed, standard_normal

WORD = 2**64


def splitmix64(state: int, count: int) -> list[int]:
    """The published generator, with Python's unbounded integers."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % WORD
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
        found.append(z ^ (z >> 31))
    return found


def draws(seed: int = 1, step: int = 0, count: int = 100_000, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return standard_normal(seed, torch.tensor(step), torch.arange(count), dtype)


def test_hash_is_splitmix64():
    states = [0, 1, 2**62, 2**63 - 1, 0x123456789ABCDEF]
    expected = [splitmix64(state, 1)[0] for state in states]
    assert [word % WORD for word in hashed(torch.tensor(states)).tolist()] == expected
    assert splitmix64(0, 1) == [0xE220A8397B1DCDAF]  # as published for seed 0


def test_draws_are_the_documented_function_of_seed_step_and_index():
    stream = splitmix64((splitmix64(7, 1)[0] + 3) % WORD, 1)[0]
    words = splitmix64(stream, 5)
    expected = [
        math.sqrt(-2 * math.log(((word >> 32) + 0.5) / 2**32)) * math.cos(2 * math.pi * ((word % 2**32) + 0.5) / 2**32)
        for word in words
    ]
    assert draws(seed=7, step=3, count=5).tolist() == pytest.approx(expected)


def test_draws_are_standard_normal():
    values = draws(count=1_000_000)
    assert values.mean().item() == pytest.approx(0, abs=0.004)
    assert values.var().item() == pytest.approx(1, abs=0.006)
    assert (values**3).mean().item() == pytest.approx(0, abs=0.02)
    assert (values**4).mean().item() == pytest.approx(3, abs=0.04)
    for bound, share in [(1.0, 0.682689), (2.0, 0.954500), (3.0, 0.997300)]:
        assert (values.abs() < bound).double().mean().item() == pytest.approx(share, abs=0.002)


@pytest.mark.parametrize("other", [{"seed": 2}, {"step": 1}, {"step": 1_000_000}, {"seed": 2**63 - 1}])
def test_draws_of_other_seeds_and_steps_are_unrelated(other):
    correlation = torch.corrcoef(torch.stack([draws(), draws(**other)]))[0, 1]
    assert correlation.item() == pytest.approx(0, abs=0.015)


@pytest.mark.parametrize("lag", [1, 2, 64])
def test_neighbouring_draws_are_unrelated(lag):
    values = draws()
    assert torch.corrcoef(torch.stack([values[lag:], values[:-lag]]))[0, 1].item() == pytest.approx(0, abs=0.015)


def test_draws_of_one_index_over_the_steps_are_standard_normal():
    values = torch.cat([draws(step=step, count=4)[None] for step in range(5000)])
    assert values.mean(dim=0).tolist() == pytest.approx([0] * 4, abs=0.06)
    assert values.std(dim=0).tolist() == pytest.approx([1] * 4, abs=0.05)
    assert torch.corrcoef(values.T).triu(1).abs().max() < 0.06


def test_same_position_is_the_same_draw_whatever_is_drawn_with_it():
    together = draws(count=100)
    assert torch.equal(draws(count=100), together)
    apart = standard_normal(1, torch.tensor(0), torch.arange(99, -1, -1), torch.float64).flip(0)
    assert torch.equal(apart, together)


def test_first_of_all_draws_is_not_an_extreme_one():
    assert draws(seed=0, step=0, count=1).abs() < 3


def test_float32_is_float64_rounded():
    torch.testing.assert_close(draws(dtype=torch.float32).double(), draws(), rtol=1e-4, atol=1e-5)


def test_extreme_words_give_finite_draws(monkeypatch):
    words = torch.tensor([0, -1, 2**32 - 1, -(2**32), 2**63 - 1, -(2**63)])
    monkeypatch.setattr("frtrain.losses.noise.hashed", lambda _: words)
    for dtype in (torch.float32, torch.float64):
        values = standard_normal(0, torch.tensor(0), torch.arange(6), dtype)
        assert values.isfinite().all()
        assert values.abs().max() < 6.8


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    draws(count=10)
    assert torch.equal(torch.get_rng_state(), before)
