"""Dropout that depends on the sample alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from frtrain.training.dropout import SampleDropout, place_dropout

CPU = torch.device("cpu")


def placed(p: float = 0.4, seed: int = 1) -> tuple[nn.Sequential, Tensor]:
    network = nn.Sequential(nn.Dropout(p), nn.Sequential(nn.Dropout(p)))
    return network, place_dropout(network, seed, CPU)


def masks(position: int, rows: int, *, p: float = 0.4, seed: int = 1, layer: int = 0, size: int = 500) -> Tensor:
    dropout = SampleDropout(p, seed, layer, torch.tensor(position))
    return dropout(torch.ones(rows, size)) != 0


def test_a_sample_loses_the_same_elements_in_any_batch():
    whole = masks(1000, 6)
    assert torch.equal(torch.cat([masks(1000, 2), masks(1002, 1), masks(1003, 3)]), whole)
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("other", [{"position": 7}, {"seed": 2}, {"layer": 1}])
def test_another_position_seed_or_layer_drops_something_else(other: dict[str, int]):
    given = {"position": 0, "rows": 4, **other}
    agreeing = float((masks(**given) == masks(0, 4)).float().mean())
    assert agreeing == pytest.approx(0.6**2 + 0.4**2, abs=0.05)


@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_elements_are_dropped_with_the_probability_asked_for_and_the_others_grow(p: float):
    dropout = SampleDropout(p, 1, 0, torch.tensor(0))
    dropped = dropout(torch.full((1000, 1000), 3.0))
    kept = dropped != 0
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.002)  # four standard deviations at p = 0.5
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 3 / (1 - p)))


def test_samples_and_elements_are_independent_of_each_other():
    kept = (masks(0, 1000, size=1000).float() - 0.6) / (0.6 * 0.4) ** 0.5
    of_rows, of_elements = kept @ kept.T / 1000**0.5, kept.T @ kept / 1000**0.5
    for correlations in (of_rows, of_elements):
        correlations.fill_diagonal_(0)
        assert float(correlations.std()) == pytest.approx(1, abs=0.01)
        assert float(correlations.abs().max()) < 6.2
    corners = kept[:-1, :-1] * kept[1:, 1:] * kept[1:, :-1] * kept[:-1, 1:]
    assert abs(float(corners.mean())) * 1000 < 4


def test_the_layout_in_memory_changes_nothing_and_is_kept():
    values = torch.ones(4, 8, 5, 5)
    plain, last = (
        SampleDropout(0.5, 1, 0, torch.tensor(3))(values.contiguous(memory_format=layout))
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_mask_does_not_depend_on_the_precision_which_is_kept(dtype: torch.dtype):
    narrow = SampleDropout(0.5, 1, 0, torch.tensor(0))(torch.ones(4, 100, dtype=dtype))
    assert narrow.dtype == dtype
    assert torch.equal(narrow != 0, masks(0, 4, p=0.5, size=100))


def test_without_dropout_and_in_evaluation_nothing_happens():
    values = torch.randn(3, 4)
    network, _ = placed(p=0.0)
    assert network(values) is values
    network, _ = placed()
    assert network.eval()(values) is values
    network, _ = placed(p=1.0)
    assert not network(values).any()


def test_all_dropout_layers_of_a_network_are_placed_and_look_at_one_position():
    network, position = placed()
    assert [type(module) for module in network.modules()].count(SampleDropout) == 2
    assert network[0].keys != network[1][0].keys
    assert not network.state_dict()
    first = network(torch.ones(2, 500))
    position.fill_(1)
    assert torch.equal(network(torch.ones(2, 500))[0], first[1])


def test_more_images_than_32_bits_count_do_not_repeat_themselves():
    assert not torch.equal(masks(2**32, 4), masks(0, 4))


def test_no_generator_is_moved_and_repeating_the_forward_pass_drops_the_same():
    network, position = placed()
    position.fill_(5)
    before = torch.get_rng_state()
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    output = checkpoint(network, values, use_reentrant=False, preserve_rng_state=False)
    output.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad != 0, output != 0)
    assert torch.equal(torch.get_rng_state(), before)
