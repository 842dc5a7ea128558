"""Images grouped by identity, for samplers that choose identities first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLUMNS_AT_A_TIME = 1 << 22
"""Of one drawing of permutations: bounds its memory to some 100 MB, whatever the number of identities."""


class ShuffledIdentities:
    """The images of each identity in a random order of their own.

    Args:
        labels: `int64 [N]`.
        random: of the order within the identities.

    Attributes:
        images: `int64 [N]`, positions in the source, sorted by identity, shuffled within each.
        counts: `int64 [classes]`, images of each identity.
    """

    def __init__(self, labels: NDArray[np.int64], random: np.random.Generator):
        shuffled = random.permutation(len(labels))
        self.images = shuffled[np.argsort(labels[shuffled], kind="stable")]
        self.counts = np.bincount(labels)
        self._first = np.cumsum(self.counts) - self.counts

    def image(self, identity: NDArray[np.int64], number: NDArray[np.int64]) -> NDArray[np.int64]:
        """The image that an identity has at a place of its order; after the last comes the first again."""
        return self.images[self._first[identity] + number % self.counts[identity]]


def rounds_of(items: NDArray[np.int64], rounds: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`rounds` independent permutations of `items [n]`, `int64 [rounds, n]`."""
    permutations = np.empty((rounds, len(items)), dtype=np.int64)
    step = max(1, COLUMNS_AT_A_TIME // max(1, len(items)))
    for start in range(0, rounds, step):
        part = permutations[start : start + step]
        part[:] = items
        random.permuted(part, axis=1, out=part)
    return permutations
