"""The order of samples as a pure function of (seed, position).

Epochs are laid end to end, so the position in the data is one integer, the samples consumed, and a batch may span two
epochs: nothing is dropped, no batch is smaller than the others. What an epoch visits is a sampler's choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.data.samplers.base import Sampler
from frtrain.losses.noise import GOLDEN_RATIO, hashed


class SampleKeys(NamedTuple):
    """What the pixels of some samples depend on, besides the seed.

    Attributes:
        epochs: `int64 [b]`.
        samples: `int64 [b]`, positions in the source.
    """

    epochs: NDArray[np.int64]
    samples: NDArray[np.int64]


class SampleOrder:
    """The endless stream of samples that a sampler's epochs make.

    Args:
        sampler: what each epoch visits.
        seed: of all epochs.
    """

    def __init__(self, sampler: Sampler, seed: int):
        self.sampler = sampler
        self.seed = seed
        self._cached: tuple[int, NDArray[np.int64]] | None = None

    def epoch(self, number: int) -> NDArray[np.int64]:
        """The samples of one epoch, `int64 [length]`."""
        if self._cached is None or self._cached[0] != number:
            self._cached = None  # two epochs of millions of images need not be in memory
            self._cached = (number, self.sampler.epoch(self.seed, number))
        return self._cached[1]

    def keys(self, start: int, stop: int) -> SampleKeys:
        """The samples at positions (samples consumed before them) `start` to `stop` of the stream."""
        length = self.sampler.length
        epochs, samples = [], []
        while start < stop:
            number, offset = divmod(start, length)
            part = self.epoch(number)[offset : offset + stop - start]
            samples.append(part)
            epochs.append(np.full(len(part), number, dtype=np.int64))
            start += len(part)
        if not samples:
            return SampleKeys(np.empty(0, np.int64), np.empty(0, np.int64))
        return SampleKeys(np.concatenate(epochs), np.concatenate(samples))

    def batches(self, position: int, batch_size: int, count: int, rows: slice = slice(None)) -> Iterator[SampleKeys]:
        """The keys of some adjacent rows of each of `count` batches, from `position` on."""
        first, last, _ = rows.indices(batch_size)
        for start in range(position, position + count * batch_size, batch_size):
            yield self.keys(start + first, start + last)


def sample_words(seed: int, epochs: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """The random word of each sample: a hash of (seed, epoch, sample), so the same whatever worker or rank asks.

    Args:
        seed: in [0, 2^63).
        epochs, samples: `int64 [b]`, on any device.

    Returns:
        `int64 [b]` on the same device.
    """
    stream = hashed(hashed(torch.full_like(epochs, seed)) + epochs)
    return hashed(stream + samples * GOLDEN_RATIO)
