"""Small random shifts, turns, scalings and changes of light, by albumentations."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from frtrain.data.augmentation import AUGMENTATIONS, SampleRandom
from frtrain.schema import Fraction, FractionBelowOne

Pixels = Annotated[int, Interval(ge=0, le=56)]
Degrees = Annotated[float, Interval(ge=0, le=180)]


@AUGMENTATIONS.register("jitter")
class Jitter:
    """Mirror, move and light a crop a little: for sets of thousands of images, which networks otherwise learn by heart.

    On millions of images flip alone is the better default (cavaface's ablation: everything more hurt IJB-C).

    Args:
        flip: probability of the mirror image.
        shift_pixels: largest shift along each axis.
        scale: largest relative change of size, 0.06 for 0.94 to 1.06.
        rotation_degrees: largest turn either way.
        light: largest relative change of brightness and of contrast.
    """

    def __init__(
        self, flip: Fraction, shift_pixels: Pixels, scale: FractionBelowOne, rotation_degrees: Degrees, light: Fraction
    ):
        import albumentations  # takes a second, which whoever does without is spared

        self._transform = albumentations.Compose(
            [
                albumentations.HorizontalFlip(p=flip),
                albumentations.Affine(
                    translate_px=(-shift_pixels, shift_pixels),
                    scale=(1 - scale, 1 + scale),
                    keep_ratio=True,
                    rotate=(-rotation_degrees, rotation_degrees),
                    border_mode=cv2.BORDER_REFLECT_101,
                    p=1.0,
                ),
                albumentations.RandomBrightnessContrast(light, light, p=1.0),
            ],
            seed=0,
        )

    def __call__(self, image: NDArray[np.uint8], random: SampleRandom, out: NDArray[np.uint8]) -> None:
        """See `Augmentation`."""
        self._transform.set_random_seed(int(random.generator.integers(2**31)))
        out[...] = self._transform(image=image)["image"]
