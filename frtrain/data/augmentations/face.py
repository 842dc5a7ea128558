"""What a crop may lose on its way to a camera: parts, resolution, light, and what something in front of it hides."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.data.augmentation import AUGMENTATIONS, SampleRandom
from frtrain.schema import Fraction

Image = NDArray[np.uint8]
Change = Callable[[Image, np.random.Generator], Image]

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
SMALLEST_SIDE_SHARE = 0.2
SMALLEST_AREA_SHARE = 0.2
LARGEST_ASPECT = 4 / 3
LIGHT = (0.5, 1.5)
"""The range of AdaFace's ColorJitter, for brightness, contrast and saturation."""

EYES_ROW, NOSE_ROW = 0.461, 0.641
"""Where they lie in the ArcFace template, as shares of the crop's height."""


@AUGMENTATIONS.register("face")
class FaceAugmentation:
    """Flip, and further losses of information, each with its own probability: 0 for off, as all but flip are.

    They help where probes are of low quality and the training set is small. On large sets of photographs most of them
    hurt: in cavaface's ablation (MobileFaceNet, IJB-C TAR@FAR=1e-4, 92.80 with flip alone) Cutout gave 81.02, ColorJitter
    92.03 and RandErasing 92.06. AdaFace (Kim, Jain, Liu 2022, arXiv 2204.00964) trains with crop, low resolution and light
    at 0.2 each; `augment=adaface` is that.

    Args:
        flip: probability of the mirror image.
        crop: probability that only a rectangle is left, of 0.2 to 1 of the area and an aspect of 3/4 to 4/3, in its place,
            the rest black (AdaFace: a RandomResizedCrop that is not resized).
        low_resolution: probability of scaling down to 0.2 to 1 of the side and up again, each with one of five
            interpolations by chance (AdaFace).
        photometric: probability of other brightness, contrast and saturation, factors of 0.5 to 1.5 in random order
            (AdaFace's ColorJitter, computed by albumentations).
        occlusion: probability that a rectangle of one colour hides something: anything, the eyes, or what is below the nose.
    """

    def __init__(
        self, flip: Fraction, crop: Fraction, low_resolution: Fraction, photometric: Fraction, occlusion: Fraction
    ):
        self.flip = flip
        changes: list[tuple[float, Change]] = [(crop, cropped_in_place), (low_resolution, at_low_resolution)]
        if photometric > 0:
            changes.append((photometric, _Photometric()))
        changes.append((occlusion, occluded))
        self.changes = [(probability, change) for probability, change in changes if probability > 0]

    def __call__(self, image: Image, random: SampleRandom, out: Image) -> None:
        """See `Augmentation`."""
        if random.coin < self.flip:
            image = np.asarray(cv2.flip(image, 1), dtype=np.uint8)
        for probability, change in self.changes:
            if random.generator.random() < probability:
                image = change(image, random.generator)
        out[...] = image


def cropped_in_place(image: Image, random: np.random.Generator) -> Image:
    """Black but for a rectangle of random size and place."""
    height, width = image.shape[:2]
    rows, columns = height, width
    for _ in range(10):  # as torchvision's RandomResizedCrop, which gives up after so many that do not fit
        area = random.uniform(SMALLEST_AREA_SHARE, 1) * height * width
        aspect = math.exp(random.uniform(-1, 1) * math.log(LARGEST_ASPECT))
        wanted = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if wanted[0] <= height and wanted[1] <= width:
            rows, columns = wanted
            break
    top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
    part = np.s_[top : top + rows, left : left + columns]
    result = np.zeros_like(image)
    result[part] = image[part]
    return result


def at_low_resolution(image: Image, random: np.random.Generator) -> Image:
    """As if taken with fewer pixels."""
    height, width = image.shape[:2]
    share = random.uniform(SMALLEST_SIDE_SHARE, 1)
    down, up = (INTERPOLATIONS[choice] for choice in random.integers(len(INTERPOLATIONS), size=2))
    small = cv2.resize(image, (max(1, int(share * width)), max(1, int(share * height))), interpolation=down)
    return np.asarray(cv2.resize(small, (width, height), interpolation=up), dtype=np.uint8)


class _Photometric:
    """Other brightness, contrast and saturation."""

    def __init__(self) -> None:
        import albumentations  # takes a second, which whoever does without is spared

        self._transform = albumentations.Compose(
            [albumentations.ColorJitter(brightness=LIGHT, contrast=LIGHT, saturation=LIGHT, hue=(0, 0), p=1.0)], seed=0
        )

    def __call__(self, image: Image, random: np.random.Generator) -> Image:
        self._transform.set_random_seed(int(random.integers(2**31)))
        result: Image = self._transform(image=image)["image"]
        return result


def occluded(image: Image, random: np.random.Generator) -> Image:
    """With a rectangle of one random colour over anything, over the eyes, or over what lies below the nose."""
    height, width = image.shape[:2]
    kind = random.integers(3)
    if kind == 0:  # anything: 0.2 to 0.5 of each side
        rows, columns = (random.uniform(0.2, 0.5, size=2) * (height, width)).astype(int)
        top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
    elif kind == 1:  # as dark glasses
        rows, columns = int(random.uniform(0.12, 0.25) * height), int(random.uniform(0.6, 0.9) * width)
        top, left = int(EYES_ROW * height - rows / 2), (width - columns) // 2
    else:  # as a medical mask
        top = int(random.uniform(NOSE_ROW - 0.08, NOSE_ROW + 0.08) * height)
        columns = int(random.uniform(0.6, 1) * width)
        rows, left = height - top, (width - columns) // 2
    result = image.copy()
    result[top : top + rows, left : left + columns] = random.integers(256, size=3)
    return result
