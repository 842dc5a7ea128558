from __future__ import annotations

import numpy as np
import torch

from frtrain.data.order import SampleKeys, SampleOrder, sample_words
from frtrain.data.samplers.shuffled import Shuffled


def order_of(size: int, seed: int) -> SampleOrder:
    return SampleOrder(Shuffled(np.zeros(size, np.int64), batch_size=2), seed)


def flattened(order: SampleOrder, position: int, batch_size: int, count: int) -> list[tuple[int, int]]:
    return [
        key
        for batch in order.batches(position, batch_size, count)
        for key in zip(batch.epochs.tolist(), batch.samples.tolist(), strict=True)
    ]


def word(seed: int, epoch: int, sample: int) -> int:
    return int(sample_words(seed, torch.tensor([epoch]), torch.tensor([sample])))


def test_an_epoch_visits_every_sample_once():
    keys = flattened(order_of(10, seed=3), 0, 5, 2)
    assert sorted(sample for _, sample in keys) == list(range(10))
    assert {epoch for epoch, _ in keys} == {0}


def test_a_batch_may_span_epochs_and_none_is_smaller():
    batches = list(order_of(10, seed=0).batches(0, 4, 5))
    assert [len(batch.samples) for batch in batches] == [4] * 5
    assert batches[2].epochs.tolist() == [0, 0, 1, 1]


def test_a_batch_may_be_larger_than_an_epoch():
    (keys,) = order_of(3, seed=0).batches(0, 8, 1)
    assert keys.epochs.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(keys.samples[:3].tolist()) == sorted(keys.samples[3:6].tolist()) == [0, 1, 2]


def test_going_on_from_a_position_continues_the_same_stream():
    whole = flattened(order_of(13, seed=7), 0, 4, 12)
    assert flattened(order_of(13, seed=7), 20, 4, 7) == whole[20:]


def test_batches_of_another_size_are_cuts_of_the_same_stream():
    assert flattened(order_of(13, seed=7), 0, 6, 4) == flattened(order_of(13, seed=7), 0, 3, 8)


def test_the_rows_of_a_process_are_cut_out_of_each_batch():
    whole = list(order_of(13, seed=7).batches(3, 6, 4))
    part = list(order_of(13, seed=7).batches(3, 6, 4, slice(2, 5)))
    assert all(np.array_equal(p.samples, w.samples[2:5]) for p, w in zip(part, whole, strict=True))


def test_a_process_without_rows_gets_empty_batches():
    (keys,) = order_of(5, seed=0).batches(0, 2, 1, slice(1, 1))
    assert isinstance(keys, SampleKeys)
    assert keys.samples.tolist() == keys.epochs.tolist() == []


def test_a_random_word_depends_on_seed_epoch_and_sample_alone():
    assert word(1, 2, 3) == word(1, 2, 3)
    assert len({word(*key) for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (2**62, 2, 3)]}) == 5
    several = sample_words(1, torch.tensor([0, 2]), torch.tensor([9, 3]))
    assert int(several[1]) == word(1, 2, 3)


def test_random_words_are_uniform_over_samples_and_epochs():
    epochs, samples = torch.meshgrid(torch.arange(50), torch.arange(400), indexing="ij")
    shares = (sample_words(3, epochs.reshape(-1), samples.reshape(-1)).double() / 2.0**64) % 1
    counts = torch.histc(shares, 20, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 44  # chi-squared of 19 degrees of freedom, p = 0.001
