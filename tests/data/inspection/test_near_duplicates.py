from __future__ import annotations

import numpy as np
import pytest

from frtrain.data.inspection.duplicates import (
    ALL_PAIRS_UP_TO,
    MOST_DISTANCE,
    NEIGHBOURS,
    bit_count,
    connected_groups,
    near_duplicates,
)


def flipped(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = [sum(1 << int(bit) for bit in rng.choice(64, bits, replace=False)) for _ in hashes]
    return hashes ^ np.array(masks, dtype=np.uint64)


def random_hashes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def all_pairs(hashes: np.ndarray, distance: int) -> np.ndarray:
    one, other = np.triu_indices(len(hashes), 1)
    near = bit_count(hashes[one] ^ hashes[other]) <= distance
    return np.stack([one[near], other[near]], axis=1)


def test_bits_are_counted():
    assert bit_count(np.array([0, 1, 2**64 - 1, 2**63 + 5], dtype=np.uint64)).tolist() == [0, 1, 64, 3]


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 6, 8, 10, MOST_DISTANCE])
def test_every_near_pair_is_found_and_no_other(distance: int):
    hashes = random_hashes(600)
    hashes = np.concatenate([hashes, *(flipped(hashes[:200], bits, bits) for bits in range(distance + 2))])
    assert np.array_equal(near_duplicates(hashes, distance), all_pairs(hashes, distance))


def test_crowded_hashes_are_compared_all_the_same():
    rng = np.random.default_rng(1)
    bits = rng.random((1500, 64)) < np.linspace(0.02, 0.4, 64)  # most bits say little, as those of aligned faces
    hashes = np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)
    expected = all_pairs(hashes, 8)
    assert 10 < np.bincount(expected.ravel()).max() < NEIGHBOURS
    assert np.array_equal(near_duplicates(hashes, 8), expected)


def test_few_hashes_have_few_pairs():
    assert near_duplicates(np.empty(0, dtype=np.uint64), 6).shape == (0, 2)
    assert near_duplicates(np.array([5], dtype=np.uint64), 6).shape == (0, 2)
    assert near_duplicates(np.array([5, 4], dtype=np.uint64), 6).tolist() == [[0, 1]]


def test_equal_hashes_are_pairs_at_distance_zero():
    hashes = np.array([7, 9, 7, 7], dtype=np.uint64)
    assert near_duplicates(hashes, 0).tolist() == [[0, 2], [0, 3], [2, 3]]


def test_thousands_of_equal_hashes_make_one_group_with_few_pairs():
    hashes = np.concatenate([np.zeros(3000, dtype=np.uint64), random_hashes(100)])
    pairs = near_duplicates(hashes, 6)
    assert 2999 <= len(pairs) < 2 * 3000
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert (connected_groups(len(hashes), pairs)[:3000] == 0).all()


def test_the_largest_run_with_all_pairs_and_the_next_one():
    for size, expected in ((ALL_PAIRS_UP_TO, ALL_PAIRS_UP_TO * (ALL_PAIRS_UP_TO - 1) // 2), (ALL_PAIRS_UP_TO + 1, 63)):
        assert len(near_duplicates(np.zeros(size, dtype=np.uint64), 3)) == expected


def test_thousands_of_hashes_near_each_other_stay_bounded_and_connected():
    hashes = np.random.default_rng(0).permutation(2**12).astype(np.uint64) << np.uint64(20)
    pairs = near_duplicates(hashes, 12)
    assert len(pairs) < 3 * NEIGHBOURS * len(hashes)
    assert not connected_groups(len(hashes), pairs).any()


def test_a_finer_hash_decides_where_it_is_given():
    hashes = np.array([0, 1, 3], dtype=np.uint64)
    fine = np.zeros((3, 4), dtype=np.uint64)
    fine[1] = 2**60 - 1
    assert near_duplicates(hashes, 4, fine).tolist() == [[0, 2]]


def test_order_of_hashes_changes_nothing_but_positions():
    hashes = np.concatenate([random_hashes(300), flipped(random_hashes(300), 4, 1)])
    shuffle = np.random.default_rng(2).permutation(len(hashes))
    pairs = np.sort(shuffle[near_duplicates(hashes[shuffle], 6)], axis=1)
    assert {tuple(pair) for pair in pairs.tolist()} == {tuple(pair) for pair in near_duplicates(hashes, 6).tolist()}


@pytest.mark.parametrize("distance", [-1, MOST_DISTANCE + 1])
def test_a_distance_out_of_range_is_an_error(distance: int):
    with pytest.raises(ValueError, match="must be 0 to 16"):
        near_duplicates(random_hashes(3), distance)


def test_groups_are_named_by_their_smallest_member():
    pairs = np.array([[5, 1], [3, 5], [2, 4], [7, 8], [8, 9], [9, 0]])
    assert connected_groups(10, pairs).tolist() == [0, 1, 2, 1, 2, 1, 6, 0, 0, 0]
    chain = np.stack([np.arange(999, 0, -1), np.arange(998, -1, -1)], axis=1)
    assert not connected_groups(1000, chain).any()
    assert connected_groups(3, np.empty((0, 2), dtype=np.int64)).tolist() == [0, 1, 2]
