"""What is searched of a photograph: the whole of it or the surroundings of a face, at another size, with a border."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class View:
    """A part of a photograph, resampled, and the way back.

    Attributes:
        pixels: RGB `uint8 [h, w, 3]`, what is searched.
        scale: `float64 [2]`, pixels of the photograph per pixel of the view, along x and y.
        border: width in pixels of the black border.
        corner: `float64 [2]`, where the part begins in the photograph, x and y.
    """

    pixels: NDArray[np.uint8]
    scale: NDArray[np.float64]
    border: int
    corner: NDArray[np.float64]

    def to_photograph(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        """Points `[..., 2]` in pixels of the view -> `[..., 2]` in pixels of the photograph.

        Resampling keeps the corner of the first pixel in place, not its centre: hence the halves.
        """
        moved: NDArray[np.float64] = (points.astype(np.float64) - self.border + 0.5) * self.scale - 0.5 + self.corner
        return moved


def whole(photograph: NDArray[np.uint8], max_side: int, min_side: int | None, margin: float = 0.0) -> View:
    """A view of a whole photograph, of its own size if that is within the bounds.

    Args:
        photograph: RGB `uint8 [H, W, 3]`.
        max_side: the most pixels of the long side, the border included.
        min_side: the least pixels of the short side, as far as `max_side` allows; None: none.
        margin: width of the border as a share of the short side.
    """
    height, width = photograph.shape[:2]
    short, long = min(height, width), max(height, width)
    scale = 1.0 if min_side is None else max(1.0, min_side / short)
    return _resampled(photograph, min(scale, max_side / (long + 2 * margin * short)), margin, (0, 0))


def around(
    photograph: NDArray[np.uint8], box: NDArray[np.float64], face_side: float, surroundings: float
) -> View | None:
    """A view of a face's surroundings.

    Args:
        photograph: RGB `uint8 [H, W, 3]`.
        box: `float64 [4]`: x1, y1, x2, y2 of the face in the photograph.
        face_side: pixels that the long side of the box shall have in the view.
        surroundings: side of the square that is cut out, as a multiple of the box's long side.

    Returns:
        None where the box lies outside the photograph.
    """
    height, width = photograph.shape[:2]
    side = float(max(box[2] - box[0], box[3] - box[1]))
    centre, reach = (box[:2] + box[2:]) / 2, side * surroundings / 2
    left, top = np.maximum(np.floor(centre - reach), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(centre + reach), [width, height]).astype(int).tolist()
    if right <= left or bottom <= top:
        return None
    return _resampled(photograph[top:bottom, left:right], face_side / side, 0.0, (left, top))


def _resampled(part: NDArray[np.uint8], scale: float, margin: float, corner: tuple[int, int]) -> View:
    height, width = part.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size != (width, height):
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        part = np.asarray(cv2.resize(part, size, interpolation=interpolation), np.uint8)
    border = round(margin * min(size))
    if border:
        part = np.pad(part, ((border, border), (border, border), (0, 0)))
    to_photograph = np.array([width / size[0], height / size[1]])
    return View(np.ascontiguousarray(part), to_photograph, border, np.array(corner, np.float64))
