"""The order of samples as a pure function of (seed, position).

Epochs are permutations laid end to end, so the position in the data is one integer, the samples consumed, and a batch
may span two epochs: nothing is dropped, no batch is smaller than the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SampleKey(NamedTuple):
    """What a sample's pixels depend on, besides the seed."""

    epoch: int
    sample: int


class ShuffledOrder:
    """A fresh permutation of `range(size)` per epoch.

    Args:
        size: images in the source.
        seed: of all permutations.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.seed = seed
        self._cached: tuple[int, NDArray[np.int64]] | None = None

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """The order of epoch `epoch`, `int64 [size]`."""
        if self._cached is None or self._cached[0] != epoch:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(self.size)
            self._cached = (epoch, order)
        return self._cached[1]

    def key(self, position: int) -> SampleKey:
        """The sample at a position (samples consumed before it) of the endless stream."""
        epoch, offset = divmod(position, self.size)
        return SampleKey(epoch, int(self.permutation(epoch)[offset]))

    def batches(
        self, position: int, batch_size: int, count: int, rows: slice = slice(None)
    ) -> Iterator[list[SampleKey]]:
        """The keys of some rows of each of `count` batches, from `position` on."""
        for start in range(position, position + count * batch_size, batch_size):
            yield [self.key(at) for at in range(start, start + batch_size)[rows]]


def sample_generator(seed: int, key: SampleKey) -> np.random.Generator:
    """The random numbers of one sample's augmentation: the same whatever worker or rank draws them."""
    return np.random.default_rng([seed, 2, key.epoch, key.sample])
