"""The contract of a sampler."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from frtrain.registry import Registry


class Sampler(Protocol):
    """Chooses the images of every epoch.

    Built with the training images' `labels` (`int64 [N]`) and the `batch_size` of all processes together, besides the
    parameters of its configuration.

    Attributes:
        length: draws of an epoch, the same in all.
    """

    length: int

    def epoch(self, seed: int, number: int) -> NDArray[np.int64]:
        """Positions in the source in the order in which epoch `number` visits them, `int64 [length]`.

        A pure function of its arguments: nothing that was drawn before may matter, so that a run can begin anywhere.
        """
        ...


SAMPLERS: Registry[Sampler] = Registry("sampler")


def sampler_generator(seed: int, number: int) -> np.random.Generator:
    """The random numbers of one epoch's order."""
    return np.random.default_rng([seed, 1, number])
