"""Anti-aliased, soft-edged drawing on `uint8 [H, W, 3]` through an affine map from drawing units to pixels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from frtrain.data.synthetic.palette import Colour

Points = NDArray[np.float64]
_SUBPIXEL_BITS = 4


def smooth(points: ArrayLike, closed: bool = False, rounds: int = 3) -> Points:
    """Cut the corners of a polyline `[N, 2]` (Chaikin 1974): a quadratic B-spline through its edges' midpoints."""
    curve = np.asarray(points, dtype=np.float64)
    for _ in range(rounds):
        start = curve if closed else curve[:-1]
        end = np.roll(curve, -1, axis=0) if closed else curve[1:]
        cut = np.empty((2 * len(start), curve.shape[1]))
        cut[0::2] = 0.75 * start + 0.25 * end
        cut[1::2] = 0.25 * start + 0.75 * end
        curve = cut if closed else np.concatenate([curve[:1], cut, curve[-1:]])
    return curve


def ellipse(x: float, y: float, radius_x: float, radius_y: float, tilt: float = 0.0, corners: int = 24) -> Points:
    """Outline of an ellipse `[corners, 2]`, turned by `tilt` radians."""
    circle = _circle(corners)
    across, along = radius_x * circle[:, 0], radius_y * circle[:, 1]
    cos, sin = np.cos(tilt), np.sin(tilt)
    return np.stack([x + cos * across - sin * along, y + sin * across + cos * along], axis=1)


class Canvas:
    """Pixels to draw on. `to_pixels` `[2, 3]` maps drawing units to pixel coordinates (0, 0 is a pixel's centre)."""

    def __init__(self, pixels: NDArray[np.uint8], to_pixels: NDArray[np.float64]):
        self.pixels = pixels
        self.to_pixels = to_pixels
        self.pixels_per_unit = float(np.sqrt(abs(np.linalg.det(to_pixels[:, :2]))))

    def fill(self, outline: ArrayLike, colour: Colour, opacity: float = 1.0, softness: float = 0.0) -> None:
        """Fill a polygon `[N, 2]`; `softness` is the width in units over which its edge fades."""
        points = self._project(outline)
        if opacity >= 1.0 and softness <= 0.0:
            cv2.fillPoly(self.pixels, [_fixed_point(points)], colour, cv2.LINE_AA, _SUBPIXEL_BITS)
            return
        self._blend(points, colour, opacity, softness, thickness=0)

    def stroke(
        self, line: ArrayLike, colour: Colour, width: float, opacity: float = 1.0, softness: float = 0.0
    ) -> None:
        """Draw an open polyline `[N, 2]` of `width` units, at least one pixel wide (thinner lines become fainter)."""
        points = self._project(line)
        width_pixels = width * self.pixels_per_unit
        thickness = max(1, round(width_pixels))
        opacity *= min(1.0, width_pixels)
        if opacity >= 1.0 and softness <= 0.0:
            cv2.polylines(
                self.pixels, [_fixed_point(points)], False, colour, thickness, cv2.LINE_AA, shift=_SUBPIXEL_BITS
            )
            return
        self._blend(points, colour, opacity, softness, thickness)

    def _project(self, points: ArrayLike) -> Points:
        matrix = self.to_pixels
        return np.asarray(points, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]

    def _blend(self, points: Points, colour: Colour, opacity: float, softness: float, thickness: int) -> None:
        sigma = softness * self.pixels_per_unit / 2
        margin = thickness + int(np.ceil(2.5 * sigma)) + 2
        height, width = self.pixels.shape[:2]
        left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - margin, 0)
        right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + margin, (width, height))
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        corners = _fixed_point(points - (left, top))
        if thickness:
            cv2.polylines(mask, [corners], False, (255,), thickness, cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        else:
            cv2.fillPoly(mask, [corners], (255,), cv2.LINE_AA, _SUBPIXEL_BITS)
        if sigma > 0.3:
            mask = cv2.GaussianBlur(mask, (0, 0), sigma)
        region = self.pixels[top:bottom, left:right]
        region[...] = blended(region, colour, mask, opacity)


def blended(
    region: NDArray[np.uint8], colour: Colour | NDArray[np.float32], mask: NDArray[np.uint8], opacity: float = 1.0
) -> NDArray[np.uint8]:
    """`region` with `colour` (one, or `[H, W, 3]`) laid over it where `mask` (`uint8 [H, W]`, 255: fully) says."""
    share = mask.astype(np.float32) * np.float32(opacity / 255)
    base = region.astype(np.float32)
    base += (np.asarray(colour, dtype=np.float32) - base) * share[..., None]
    return base.astype(np.uint8)


def noise_field(rng: np.random.Generator, shape: Sequence[int], cell_y: float, cell_x: float) -> NDArray[np.float32]:
    """Smooth noise `float32 [H, W]` of deviation about 1, whose features are `cell_y` x `cell_x` pixels."""
    height, width = shape
    rows, columns = max(2, round(height / cell_y)), max(2, round(width / cell_x))
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


@cache
def _circle(corners: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _fixed_point(points: Points) -> NDArray[np.int32]:
    return np.rint(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)
