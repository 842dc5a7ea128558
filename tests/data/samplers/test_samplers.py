from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frtrain.commands.composition import group_defaults
from frtrain.data.samplers import SAMPLERS, Sampler
from frtrain.data.samplers.identities import ShuffledIdentities, rounds_of
from frtrain.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs" / "sampler"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
LABELS = np.repeat([0, 1, 2, 4, 5, 6], [3, 1, 12, 5, 2, 1])  # nobody has label 3


def built(name: str, labels: np.ndarray = LABELS, batch_size: int = 8, **parameters: Any) -> Sampler:
    return SAMPLERS.build({**group_defaults("sampler", name), **parameters}, labels=labels, batch_size=batch_size)


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_is_a_pure_function_of_seed_and_number(name: str):
    sampler, other = built(name), built(name)
    for number in range(3):
        other.epoch(9, number)  # a history that must not matter
    epoch = sampler.epoch(3, 2)
    assert epoch.dtype == np.int64
    assert len(epoch) == sampler.length
    assert 0 <= epoch.min() <= epoch.max() < len(LABELS)
    assert np.array_equal(epoch, other.epoch(3, 2))
    assert not np.array_equal(epoch, sampler.epoch(3, 1))
    assert not np.array_equal(epoch, sampler.epoch(4, 2))


def test_shuffled_visits_every_image_once():
    assert sorted(built("shuffled").epoch(1, 0).tolist()) == list(range(len(LABELS)))


def test_class_balanced_draws_all_identities_equally_often():
    sampler = built("class_balanced")
    assert sampler.length == len(LABELS)
    counts = Counter(LABELS[sampler.epoch(1, 0)].tolist())
    assert set(counts) == {0, 1, 2, 4, 5, 6}
    assert set(counts.values()) == {4}  # 24 draws of 6 identities


def test_class_balanced_shows_an_identity_again_only_after_all_others():
    labels = LABELS[built("class_balanced").epoch(1, 0)].reshape(-1, 6)
    assert all(len(set(row)) == 6 for row in labels.tolist())
    assert len({tuple(row) for row in labels.tolist()}) > 1  # each time in another order


def test_class_balanced_goes_through_the_images_of_an_identity_before_it_repeats_one():
    epoch = built("class_balanced").epoch(1, 0)
    for identity, images in ((0, 3), (4, 5), (5, 2)):
        drawn = epoch[LABELS[epoch] == identity]
        assert len(set(drawn[:images].tolist())) == min(images, len(drawn))


def test_class_balanced_shows_all_images_of_a_large_identity_over_the_epochs():
    sampler = built("class_balanced")
    seen = np.concatenate([sampler.epoch(1, number) for number in range(20)])
    assert len(set(seen[LABELS[seen] == 2].tolist())) == 12


@pytest.mark.parametrize("too_few", ["repeat", "leave_out"])
def test_batches_of_m_per_class_hold_m_images_of_each_of_different_identities(too_few: str):
    labels = np.repeat(np.arange(9), [1, 1, 2, 3, 4, 5, 6, 9, 13])
    sampler = built("m_per_class", labels, batch_size=6, images_per_identity=3, too_few=too_few)
    assert sampler.length == 42  # as many whole batches as 44 images fill
    for number in range(5):
        for batch in sampler.epoch(2, number).reshape(-1, 2, 3):
            first, second = labels[batch]
            assert len(set(first)) == len(set(second)) == 1
            assert first[0] != second[0]
            for group in batch:
                assert len(set(group.tolist())) == min(3, np.count_nonzero(labels == labels[group[0]]))


def test_m_per_class_leaves_identities_with_too_few_images_out_when_asked():
    labels = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 9])
    seen = np.concatenate(
        [built("m_per_class", labels, 6, images_per_identity=3, too_few="leave_out").epoch(0, n) for n in range(9)]
    )
    assert set(labels[seen].tolist()) == {2, 3, 4, 5}


def test_m_per_class_takes_identities_equally_often():
    labels = np.repeat(np.arange(10), 20)
    counts = Counter(labels[built("m_per_class", labels, 20, images_per_identity=4).epoch(0, 0)].tolist())
    assert set(counts.values()) == {20}


def test_m_per_class_shows_other_images_when_an_identity_comes_again():
    labels = np.repeat(np.arange(4), 12)
    epoch = built("m_per_class", labels, 8, images_per_identity=4).epoch(0, 0)
    assert sorted(epoch.tolist()) == list(range(48))


def test_a_batch_that_m_does_not_divide_is_an_error_that_names_the_keys():
    with pytest.raises(ConfigError, match=r"sampler\.images_per_identity=4: trainer\.batch_size=6 must be a multiple"):
        built("m_per_class", batch_size=6)


def test_more_identities_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match="needs 10 different identities, but the training data have 6 identities"):
        built("m_per_class", batch_size=20, images_per_identity=2)


def test_fewer_images_than_a_batch_still_make_one():
    assert built("m_per_class", np.array([0, 1]), 8, images_per_identity=4).length == 8


def test_images_are_grouped_by_identity_whatever_the_order_of_the_labels():
    labels = np.random.default_rng(0).permutation(LABELS)
    order = ShuffledIdentities(labels, np.random.default_rng(1))
    for identity in np.unique(labels):
        count = np.count_nonzero(labels == identity)
        images = order.image(np.full(2 * count, identity), np.arange(2 * count))
        assert sorted(images[:count].tolist()) == np.flatnonzero(labels == identity).tolist()
        assert np.array_equal(images[:count], images[count:])


def test_rounds_are_permutations_also_where_they_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("frtrain.data.samplers.identities.COLUMNS_AT_A_TIME", 7)
    rounds = rounds_of(np.array([2, 5, 9]), 5, np.random.default_rng(0))
    assert np.array_equal(np.sort(rounds, axis=1), [[2, 5, 9]] * 5)
