"""What happens to a crop before the network sees it: pure functions of the pixels and a random word per sample."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.registry import Registry
from frtrain.schema import Fraction

WORD = 2**64


class SampleRandom:
    """The random numbers of one sample in one epoch.

    Args:
        word: `frtrain.data.order.sample_words` of it, any integer.
    """

    __slots__ = ("_generator", "_word")

    def __init__(self, word: int):
        self._word = word % WORD
        self._generator: np.random.Generator | None = None

    @property
    def coin(self) -> float:
        """One uniform number in [0, 1), the same at every look: costs nothing, which is why flips take it."""
        return (self._word >> 11) * 2.0**-53

    @property
    def generator(self) -> np.random.Generator:
        """As many further numbers as wanted. Its first use takes a tenth of the time of decoding a crop."""
        if self._generator is None:
            self._generator = np.random.Generator(np.random.Philox(key=self._word))
        return self._generator


class Augmentation(Protocol):
    """Maps a crop to a crop of the same size and type, drawing only from what it is given."""

    def __call__(self, image: NDArray[np.uint8], random: SampleRandom, out: NDArray[np.uint8]) -> None:
        """Write the changed crop to its place in the batch.

        Args:
            image: RGB `uint8 [H, W, 3]`; not to be written to.
            random: the sample's random numbers.
            out: of the same shape, contiguous.
        """
        ...


AUGMENTATIONS: Registry[Augmentation] = Registry("augment")


@AUGMENTATIONS.register("none")
class NoAugmentation:
    """The crop as it is."""

    def __call__(self, image: NDArray[np.uint8], random: SampleRandom, out: NDArray[np.uint8]) -> None:
        """Copy `image`."""
        out[...] = image


@AUGMENTATIONS.register("flip")
class HorizontalFlip:
    """Mirror the crop with the given probability: the one augmentation that all published recipes share."""

    def __init__(self, probability: Fraction):
        self.probability = probability
        self._mirrored = np.empty(0, dtype=np.uint8)

    def __call__(self, image: NDArray[np.uint8], random: SampleRandom, out: NDArray[np.uint8]) -> None:
        """Copy `image` or its mirror image."""
        if random.coin < self.probability:
            # OpenCV mirrors ten times as fast as a copy of a reversed view. It writes each row from its end, which is slow
            # in memory that is not in the cache yet, as that of a batch.
            if self._mirrored.shape != image.shape:
                self._mirrored = np.empty_like(image, order="C")
            out[...] = cv2.flip(image, 1, self._mirrored)
        else:
            out[...] = image
