from __future__ import annotations

from frtrain.data.order import SampleKey, ShuffledOrder, sample_generator


def flattened(order: ShuffledOrder, position: int, batch_size: int, count: int) -> list[SampleKey]:
    return [key for batch in order.batches(position, batch_size, count) for key in batch]


def test_an_epoch_visits_every_sample_once():
    keys = flattened(ShuffledOrder(10, seed=3), 0, 5, 2)
    assert sorted(key.sample for key in keys) == list(range(10))
    assert {key.epoch for key in keys} == {0}


def test_epochs_differ_and_seeds_differ():
    order = ShuffledOrder(50, seed=3)
    assert order.permutation(0).tolist() != order.permutation(1).tolist()
    assert order.permutation(0).tolist() != ShuffledOrder(50, seed=4).permutation(0).tolist()


def test_a_batch_may_span_two_epochs_and_none_is_smaller():
    batches = list(ShuffledOrder(10, seed=0).batches(0, 4, 5))
    assert [len(batch) for batch in batches] == [4] * 5
    assert [key.epoch for key in batches[2]] == [0, 0, 1, 1]


def test_going_on_from_a_position_continues_the_same_stream():
    whole = flattened(ShuffledOrder(13, seed=7), 0, 4, 12)
    assert flattened(ShuffledOrder(13, seed=7), 20, 4, 7) == whole[20:]


def test_batches_of_another_size_are_cuts_of_the_same_stream():
    assert flattened(ShuffledOrder(13, seed=7), 0, 6, 4) == flattened(ShuffledOrder(13, seed=7), 0, 3, 8)


def test_augmentation_draws_depend_on_seed_epoch_and_index_alone():
    draw = sample_generator(1, SampleKey(2, 3)).random()
    assert draw == sample_generator(1, SampleKey(2, 3)).random()
    others = [(2, 2, 3), (1, 3, 3), (1, 2, 4)]
    assert all(draw != sample_generator(seed, SampleKey(epoch, index)).random() for seed, epoch, index in others)
