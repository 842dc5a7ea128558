"""Every image once an epoch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frtrain.data.samplers.base import SAMPLERS, sampler_generator
from frtrain.schema import PositiveInt


@SAMPLERS.register("shuffled")
class Shuffled:
    """A fresh permutation of all images per epoch: identities are seen as often as they have images."""

    def __init__(self, labels: NDArray[np.int64], batch_size: PositiveInt):
        self.length = len(labels)

    def epoch(self, seed: int, number: int) -> NDArray[np.int64]:
        """See `Sampler`."""
        return sampler_generator(seed, number).permutation(self.length)
