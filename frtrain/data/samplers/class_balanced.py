"""Every identity as often as every other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frtrain.data.samplers.base import SAMPLERS, sampler_generator
from frtrain.data.samplers.identities import ShuffledIdentities, rounds_of
from frtrain.schema import PositiveInt


@SAMPLERS.register("class_balanced")
class ClassBalanced:
    """As many draws as there are images, spread evenly over the identities: their numbers differ by one at most.

    An epoch goes round and round over all identities, each round in a new order, and each time takes the next image of an
    identity, in an order that is new in each epoch. Identities with few images repeat them; of those with many an epoch
    shows a part.
    """

    def __init__(self, labels: NDArray[np.int64], batch_size: PositiveInt):
        self.labels = labels
        self.identities = np.flatnonzero(np.bincount(labels))
        self.length = len(labels)

    def epoch(self, seed: int, number: int) -> NDArray[np.int64]:
        """See `Sampler`."""
        random = sampler_generator(seed, number)
        order = ShuffledIdentities(self.labels, random)
        per_round = len(self.identities)
        rounds = -(-self.length // per_round)
        visited = rounds_of(self.identities, rounds, random).reshape(-1)[: self.length]
        visit = np.arange(self.length) // per_round
        return order.image(visited, visit)
