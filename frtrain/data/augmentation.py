"""What happens to a crop before the network sees it: pure functions of the pixels and a generator per sample."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from frtrain.registry import Registry
from frtrain.schema import Fraction


class Augmentation(Protocol):
    """Maps a crop to a crop of the same size and type, drawing only from the generator it is given."""

    def __call__(self, image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """RGB `uint8 [H, W, 3]` -> the same; the input is not written to."""
        ...


AUGMENTATIONS: Registry[Augmentation] = Registry("augment")


@AUGMENTATIONS.register("none")
class NoAugmentation:
    """The crop as it is."""

    def __call__(self, image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Return `image`."""
        return image


@AUGMENTATIONS.register("flip")
class HorizontalFlip:
    """Mirror the crop with the given probability: the one augmentation that all published recipes share."""

    def __init__(self, probability: Fraction):
        self.probability = probability

    def __call__(self, image: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Return `image` or its mirror image."""
        return image[:, ::-1] if random.random() < self.probability else image
