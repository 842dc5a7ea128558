"""Augmentation of a whole batch on the device that trains, for machines whose CPUs are busy decoding.

Random numbers are a hash of (seed, epoch, sample), computed on the device (`frtrain.data.order.sample_words`), and each
sample's result depends on nothing but its pixels and its word: batch, workers and ranks change nothing.
"""

from __future__ import annotations

import math
from typing import Annotated, Protocol

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from frtrain.losses.noise import hashed
from frtrain.registry import Registry
from frtrain.schema import Fraction, FractionBelowOne

MANTISSA = 2**24
LOW_RESOLUTIONS = (28, 37, 56, 75)
"""Sides that crops are scaled down to: a quarter to two thirds of 112. A few, so that no shape depends on a random number."""

OCCLUSION_SHARES = (0.2, 0.5)
"""Of each side."""


class DeviceAugmentation(Protocol):
    """Maps a batch on its device to one of the same shape."""

    def __call__(self, images: Tensor, words: Tensor) -> Tensor:
        """Change pixels.

        Args:
            images: RGB `uint8 [B, 3, H, W]`; not written to.
            words: `int64 [B]`, the random word of each sample, on the same device.

        Returns:
            `float32 [B, 3, H, W]`, 0 to 255.
        """
        ...


DEVICE_AUGMENTATIONS: Registry[DeviceAugmentation] = Registry("device_augment")


@DEVICE_AUGMENTATIONS.register("face")
class DeviceFaceAugmentation:
    """Flip, shift, scale, rotation, light, low resolution and occlusion; what is 0 costs nothing.

    See `frtrain.data.augmentations.face` for what is known of their use: on large sets flip alone is the better choice.

    Args:
        flip: probability of the mirror image.
        shift: largest shift along each axis, as a share of the side.
        scale: largest relative change of size, 0.06 for 0.94 to 1.06.
        rotation_degrees: largest turn either way.
        light: largest relative change of brightness, and of contrast about the crop's mean.
        low_resolution: probability of scaling down and up again.
        occlusion: probability of a grey rectangle somewhere.
    """

    def __init__(
        self,
        flip: Fraction,
        shift: Fraction,
        scale: FractionBelowOne,
        rotation_degrees: Annotated[float, Interval(ge=0, le=180)],
        light: Fraction,
        low_resolution: Fraction,
        occlusion: Fraction,
    ):
        self.flip = flip
        self.shift = shift
        self.scale = scale
        self.rotation_radians = math.radians(rotation_degrees)
        self.light = light
        self.low_resolution = low_resolution
        self.occlusion = occlusion

    def __call__(self, images: Tensor, words: Tensor) -> Tensor:
        """See `DeviceAugmentation`."""
        draws = _Draws(words)
        pixels = images.to(torch.float32)
        if self.flip:
            pixels = torch.where(_rows(draws.uniform(0) < self.flip), pixels.flip(3), pixels)
        if self.shift or self.scale or self.rotation_radians:
            pixels = self._moved(pixels, draws)
        if self.low_resolution:
            pixels = self._coarse(pixels, draws)
        if self.light:
            brightness, contrast = (_rows(1 + self.light * draws.either_way(number)) for number in (6, 7))
            pixels = pixels * brightness
            mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
            pixels = ((pixels - mean) * contrast + mean).clamp(0, 255)
        if self.occlusion:
            pixels = self._occluded(pixels, draws)
        return pixels

    def _moved(self, pixels: Tensor, draws: _Draws) -> Tensor:
        angle = self.rotation_radians * draws.either_way(1)
        size = 1 + self.scale * draws.either_way(2)
        right, down = (2 * self.shift * draws.either_way(number) for number in (3, 4))  # the sides are 2 long
        cosine, sine = angle.cos() / size, angle.sin() / size  # from places in the result to places in the crop
        rows = torch.stack(
            [
                torch.stack([cosine, -sine, -right], dim=1),
                torch.stack([sine, cosine, -down], dim=1),
            ],
            dim=1,
        )
        places = F.affine_grid(rows, list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, places, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _coarse(self, pixels: Tensor, draws: _Draws) -> Tensor:
        height, width = pixels.shape[2:]
        hit = draws.uniform(8) < self.low_resolution
        choice = (draws.uniform(9) * len(LOW_RESOLUTIONS)).long()
        result = pixels
        for number, side in enumerate(LOW_RESOLUTIONS):
            small = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)
            large = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)
            result = torch.where(_rows(hit & (choice == number)), large, result)
        return result

    def _occluded(self, pixels: Tensor, draws: _Draws) -> Tensor:
        hit = draws.uniform(10) < self.occlusion
        least, most = OCCLUSION_SHARES
        inside = []
        for number, side in ((11, pixels.shape[2]), (13, pixels.shape[3])):
            length = (least + (most - least) * draws.uniform(number)) * side
            first = draws.uniform(number + 1) * (side - length)
            middles = torch.arange(side, device=pixels.device) + 0.5
            inside.append((middles >= first[:, None]) & (middles < (first + length)[:, None]))
        hidden = inside[0][:, None, :, None] & inside[1][:, None, None, :] & _rows(hit)
        return torch.where(hidden, _rows(draws.uniform(15) * 255), pixels)


class _Draws:
    """Independent uniform numbers by number of the draw, one for each sample."""

    def __init__(self, words: Tensor):
        self.words = words

    def uniform(self, number: int) -> Tensor:
        """`float32 [B]` in [0, 1)."""
        return (hashed(self.words + (number + 1)) & (MANTISSA - 1)).to(torch.float32) / MANTISSA

    def either_way(self, number: int) -> Tensor:
        """`float32 [B]` in [-1, 1)."""
        return 2 * self.uniform(number) - 1


def _rows(values: Tensor) -> Tensor:
    """`[B]` -> `[B, 1, 1, 1]`."""
    return values[:, None, None, None]
