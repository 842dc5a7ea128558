"""Several images of each identity in a batch, for losses on pairs."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from frtrain.data.samplers.base import SAMPLERS, sampler_generator
from frtrain.data.samplers.identities import ShuffledIdentities, rounds_of
from frtrain.errors import ConfigError
from frtrain.schema import PositiveInt


@SAMPLERS.register("m_per_class")
class MPerClass:
    """Batches of `batch_size / images_per_identity` identities that differ, with so many images of each, side by side.

    Identities take turns: each round goes over all of them in a new order, as far as that fills whole batches. An
    identity that comes again in the same epoch shows the next of its images. Every batch lies within one epoch, so an
    epoch has as many whole batches as the images would fill.

    Args:
        labels, batch_size: see `Sampler`.
        images_per_identity: m, of each identity in a batch.
        too_few: what becomes of identities with fewer images than that: `repeat` some in the batch, or `leave_out`.

    Raises:
        ConfigError: the batch is no multiple of m, or asks for more identities than there are.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        batch_size: PositiveInt,
        images_per_identity: Annotated[int, Interval(ge=2, le=4096)],
        too_few: Literal["repeat", "leave_out"],
    ):
        key = f"sampler.images_per_identity={images_per_identity}"
        if batch_size % images_per_identity:
            raise ConfigError(f"{key}: trainer.batch_size={batch_size} must be a multiple of it")
        counts = np.bincount(labels)
        self.labels = labels
        self.identities = np.flatnonzero(counts >= (1 if too_few == "repeat" else images_per_identity))
        self.images_per_identity = images_per_identity
        self.identities_per_batch = batch_size // images_per_identity
        if len(self.identities) < self.identities_per_batch:
            what = "identities" if too_few == "repeat" else "identities with so many images"
            raise ConfigError(
                f"{key}: a batch of {batch_size} needs {self.identities_per_batch} different identities, but the training "
                f"data have {len(self.identities)} {what}; use a smaller trainer.batch_size or more images per identity"
            )
        self.batches = max(1, len(labels) // batch_size)
        self.length = self.batches * batch_size

    def epoch(self, seed: int, number: int) -> NDArray[np.int64]:
        """See `Sampler`."""
        random = sampler_generator(seed, number)
        order = ShuffledIdentities(self.labels, random)
        per_batch, m = self.identities_per_batch, self.images_per_identity
        batches_per_round = len(self.identities) // per_batch
        rounds = -(-self.batches // batches_per_round)
        turns = rounds_of(self.identities, rounds, random)[:, : batches_per_round * per_batch]
        visited = turns.reshape(-1)[: self.batches * per_batch]
        first = _visit_numbers(visited, len(order.counts)) * m
        return order.image(visited[:, None], first[:, None] + np.arange(m)).reshape(-1)


def _visit_numbers(visited: NDArray[np.int64], identities: int) -> NDArray[np.int64]:
    """How often each identity of a sequence has come before, `int64` of the same shape."""
    by_identity = np.argsort(visited, kind="stable")
    counts = np.bincount(visited, minlength=identities)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    numbers = np.empty_like(visited)
    numbers[by_identity] = np.arange(len(visited)) - first
    return numbers
