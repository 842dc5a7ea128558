"""Hashes that are nearly equal, among millions of them, without comparing all with all."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

BITS = 64
MOST_DISTANCE = 16
"""Unrelated faces differ in about 28 of 64 bits; beyond this distance nearly everything is found."""

FINE_DISTANCE = 48
"""Of 256 bits. Unrelated faces differ in 120 +- 10 of them, re-encoded ones in up to 14, those shifted by a pixel in up to 48."""

ALL_PAIRS_UP_TO = 32
"""Images of one hash up to which each is paired with each; more are paired in a chain and with the first alone."""

MEMBERS = 4
"""Images of one hash that are paired with those of another, nearly equal hash."""

WINDOW = 2048
"""Neighbours in a bucket that a hash is compared with: bounds the work where thousands share a bucket."""

NEIGHBOURS = 64
"""Near hashes after which no more are looked for: bounds the memory where thousands are near each other."""

_COMPARISON, _SORTING = 1.0, 10.0
"""Rough cost of comparing two hashes, and of putting one into a bucket."""

_BITS_PER_KEY_BIT = 0.75
"""Bits of aligned faces' hashes are not independent: buckets are as large as if keys had this share of their bits."""


def near_duplicates(
    hashes: NDArray[np.uint64], distance: int, fine: NDArray[np.uint64] | None = None
) -> NDArray[np.int64]:
    """Pairs of positions whose hashes differ in at most `distance` bits.

    The 64 bits are cut into `distance + k` pieces. Two hashes that differ in at most `distance` bits agree in at least k
    whole pieces, so they share a bucket in one of the tables keyed by k pieces each (Manku et al. 2007, "Detecting
    near-duplicates for web crawling"); k is chosen by the number of hashes. Only hashes within a bucket are compared.

    Every near pair of different hashes is found, as long as a bucket has at most `WINDOW` hashes and a hash at most
    `NEIGHBOURS` near ones; beyond that some pairs are left out, but their images stay connected through others wherever a bucket has them side by side.
    Equal hashes are treated once: see `ALL_PAIRS_UP_TO` and `MEMBERS` for which of their images are paired.

    Args:
        hashes: `uint64 [N]`.
        distance: 0 to `MOST_DISTANCE` bits.
        fine: `uint64 [N, 4]`, 256-bit hashes of the same images: only pairs that differ in at most `FINE_DISTANCE` of their
            bits are returned. None: pairs are not checked further.

    Returns:
        `int64 [P, 2]`, the smaller position first, each pair once, sorted. The same for the same hashes in every call.

    Raises:
        ValueError: the distance is out of range.
    """
    if not 0 <= distance <= MOST_DISTANCE:
        raise ValueError(f"distance={distance}: must be 0 to {MOST_DISTANCE}")
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    values, first, sizes = np.unique(hashes[order], return_index=True, return_counts=True)
    near = _near_values(values, distance, None if fine is None else fine[order[first]])
    found = [*_pairs_of_equal(first.astype(np.int64), sizes.astype(np.int64)), *_members(near, first, sizes)]
    pairs = np.sort(order[np.concatenate(found)], axis=1)
    if fine is not None:
        pairs = pairs[_confirmed(pairs, fine)]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    new = np.ones(len(pairs), dtype=bool)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[new]


def connected_groups(count: int, pairs: NDArray[np.int64], known: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """For each of `count` items the smallest one that it is connected with, `int64 [count]`.

    Args:
        count: of items.
        pairs: `[P, 2]`, what is connected.
        known: the result of an earlier call, whose pairs count, too.
    """
    root = np.arange(count, dtype=np.int64) if known is None else known
    one, other = pairs[:, 0], pairs[:, 1]
    while len(one):
        low, high = np.minimum(root[one], root[other]), np.maximum(root[one], root[other])
        apart = low != high
        one, other, low, high = one[apart], other[apart], low[apart], high[apart]
        np.minimum.at(root, high, low)
        while not np.array_equal(root, jumped := root[root]):
            root = jumped
    return root


def bit_count(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits of each value are 1."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        counts: NDArray[np.uint8] = np.bitwise_count(values)
        return counts
    bits: NDArray[np.uint8] = np.unpackbits(np.ascontiguousarray(values).view(np.uint8), axis=-1)
    return bits.reshape(*values.shape, BITS).sum(axis=-1, dtype=np.uint8)


def _confirmed(pairs: NDArray[np.int64], fine: NDArray[np.uint64]) -> NDArray[np.bool_]:
    differing = bit_count(fine[pairs[:, 0]] ^ fine[pairs[:, 1]]).sum(axis=1, dtype=np.int64)
    confirmed: NDArray[np.bool_] = differing <= FINE_DISTANCE
    return confirmed


def _near_values(values: NDArray[np.uint64], distance: int, fine: NDArray[np.uint64] | None) -> NDArray[np.int64]:
    """Pairs of positions in `values`, which are all different."""
    count = len(values)
    if count < 2 or distance == 0:
        return np.empty((0, 2), dtype=np.int64)
    matching = min(range(1, 5), key=lambda pieces: _cost(count, distance, pieces))
    pieces = _pieces(values, distance + matching)
    neighbours = np.zeros(count, dtype=np.int64)
    root = np.arange(count, dtype=np.int64)
    found = []
    for chosen in combinations(range(len(pieces)), matching):
        differing = [pieces[place] for place in range(chosen[-1]) if place not in chosen]
        key = values & np.bitwise_or.reduce(pieces[list(chosen)])
        order = np.argsort(key, kind="stable").astype(np.int64)
        crowded = neighbours >= NEIGHBOURS
        pairs = _near_in_buckets(values[order], key[order], differing, distance, ~crowded[order])
        if crowded.any():
            pairs = np.concatenate([pairs, _bridges(values[order], key[order], distance, crowded[order], root[order])])
        pairs = order[pairs]
        if fine is not None:
            pairs = pairs[_confirmed(pairs, fine)]
        root = connected_groups(count, pairs, root)
        neighbours += np.bincount(pairs.ravel(), minlength=count)
        found.append(pairs)
    return np.concatenate(found)


def _near_in_buckets(
    values: NDArray[np.uint64],
    key: NDArray[np.uint64],
    differing: list[np.uint64],
    distance: int,
    wanted: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Near pairs of one key, from those positions on that are `wanted`; all arrays are sorted by key.

    A pair is found here only if it differs under each mask of `differing`: otherwise an earlier table has found it.
    """
    active = np.flatnonzero(wanted)
    hits = np.zeros(len(values), dtype=np.int64)
    found = [np.empty((0, 2), dtype=np.int64)]
    for step in range(1, WINDOW + 1):
        active = active[active + step < len(key)]
        active = active[key[active] == key[active + step]]
        if not len(active):
            break
        difference = values[active] ^ values[active + step]
        near = bit_count(difference) <= distance
        if near.any():
            for mask in differing:
                near &= (difference & mask) != 0
            places = active[near]
            found.append(np.stack([places, places + step], axis=1))
            hits[places] += 1
            active = active[hits[active] < NEIGHBOURS]
    return np.concatenate(found)


def _bridges(
    values: NDArray[np.uint64],
    key: NDArray[np.uint64],
    distance: int,
    crowded: NDArray[np.bool_],
    root: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Near pairs side by side in a bucket that connect what is not connected yet, from those that have too many pairs."""
    near = (key[1:] == key[:-1]) & (crowded[1:] | crowded[:-1]) & (root[1:] != root[:-1])
    places = np.flatnonzero(near)
    places = places[bit_count(values[places] ^ values[places + 1]) <= distance]
    return np.stack([places, places + 1], axis=1)


def _cost(count: int, distance: int, matching: int) -> float:
    """Of a search whose tables are keyed by `matching` of `distance + matching` pieces."""
    key_bits = _BITS_PER_KEY_BIT * BITS * matching / (distance + matching)
    compared = min(count / 2**key_bits / 2, WINDOW)
    return math.comb(distance + matching, matching) * count * (_SORTING + _COMPARISON * compared)


def _pieces(values: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """Masks that share the 64 bits out; bits that tell hashes apart well and badly are dealt to all alike."""
    ones = np.array([int(((values >> np.uint64(bit)) & np.uint64(1)).sum()) for bit in range(BITS)])
    by_use = np.argsort(np.abs(2 * ones - len(values)), kind="stable")
    masks = [sum(1 << int(bit) for bit in by_use[start::count]) for start in range(count)]
    return np.array(masks, dtype=np.uint64)


def _pairs_of_equal(first: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Pairs of positions in the sorted order within each run of equal hashes."""
    ends, size_of = np.repeat(first + sizes, sizes), np.repeat(sizes, sizes)
    places = np.arange(len(ends), dtype=np.int64)
    found = []
    for step in range(1, ALL_PAIRS_UP_TO):
        places = places[places + step < ends[places]]
        found.append(np.stack([places, places + step], axis=1))
        places = places[size_of[places] <= ALL_PAIRS_UP_TO]
    large = np.flatnonzero(size_of > ALL_PAIRS_UP_TO)
    starts = np.repeat(first, sizes)[large]
    found.append(np.stack([starts, large], axis=1)[large > starts + 1])
    return found


def _members(near: NDArray[np.int64], first: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Pairs of positions in the sorted order between the runs of two near hashes."""
    one, other = near[:, 0], near[:, 1]
    found = []
    for left in range(MEMBERS):
        for right in range(MEMBERS):
            both = (left < sizes[one]) & (right < sizes[other])
            found.append(np.stack([first[one[both]] + left, first[other[both]] + right], axis=1).astype(np.int64))
    return found
