"""What MTCNN computes on boxes between its networks.

Everything here is float32 on the host, in the order of operations of facenet-pytorch: candidates are few, and equal
rounding is what makes equal faces. Boxes are `float32 [N, 4]`: x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.int64]

ROUNDING_OF_CORNERS = 1e-6
"""More, as a share of an image's side, than rounding in the networks moves a corner by: 3e-7 was seen."""


def pyramid_scales(height: int, width: int, min_face_size: int, factor: float) -> list[float]:
    """Scales of the image pyramid, from the one that makes the smallest face 12 pixels large; none for small images."""
    scales = []
    scale = 12.0 / min_face_size
    side = min(height, width) * scale
    while side >= 12:
        scales.append(scale)
        scale *= factor
        side *= factor
    return scales


def window_boxes(x: Indices, y: Indices, scales: Floats) -> Floats:
    """Windows of the proposal network, by their place in its output and the scale of their level, in whole pixels."""
    corner = np.stack([x, y], axis=1).astype(np.float32) * np.float32(2)
    scale = scales[:, None]
    return np.concatenate([np.floor((corner + 1) / scale), np.floor((corner + 12) / scale)], axis=1)


def suppress(boxes: Floats, scores: Floats, overlap: float) -> Indices:
    """Non-maximum suppression: leave out what overlaps (intersection over union) a better box by more than `overlap`.

    Returns:
        Indices of what is left, the highest score first.
    """
    if len(boxes) == 0:
        return np.empty(0, np.int64)
    kept: Indices = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), overlap).numpy()
    return kept


def suppress_within_levels(boxes: Floats, scores: Floats, levels: Indices, overlap: float) -> Indices:
    """`suppress` among boxes of whole pixels of one level each; equals one call per level.

    Levels are set apart by a shift, which is exact: whole numbers below 2^24 are float32 numbers.
    """
    if len(boxes) == 0:
        return np.empty(0, np.int64)
    shift = levels.astype(np.float32) * (boxes.max() + 1)
    return suppress(boxes + shift[:, None], scores, overlap)


def suppress_nested(boxes: Floats, scores: Floats, overlap: float) -> Indices:
    """As `suppress`, but of the intersection's share in the smaller box: a face within a face goes too.

    Boxes include their last pixel here, and the order of equal scores is that of numpy's argsort.
    """
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    order = np.argsort(scores)
    kept = []
    while order.size:
        best, others = order[-1], order[:-1]
        kept.append(best)
        width = np.maximum(0, np.minimum(x2[best], x2[others]) - np.maximum(x1[best], x1[others]) + 1)
        height = np.maximum(0, np.minimum(y2[best], y2[others]) - np.maximum(y1[best], y1[others]) + 1)
        order = others[width * height / np.minimum(area[best], area[others]) <= overlap]
    return np.array(kept, np.int64)


def move_windows(boxes: Floats, shares: Floats) -> Floats:
    """Windows moved by the proposal network's outputs, shares of their width and height."""
    return boxes + shares * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def move_crops(boxes: Floats, shares: Floats) -> Floats:
    """Boxes moved by the outputs of the later networks, for which a box includes its last pixel."""
    return boxes + shares * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)


def place_points(boxes: Floats, shares: Floats) -> Floats:
    """Five x and five y as shares of each box, `[N, 10]` -> points in pixels of the image, `[N, 5, 2]`."""
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return size[:, None] * shares.reshape(-1, 2, 5).transpose(0, 2, 1) + boxes[:, None, :2] - 1


def squared(boxes: Floats) -> Floats:
    """Each box widened to a square around its middle."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + size * np.float32(0.5) - side * np.float32(0.5)
    return np.concatenate([corner, corner + side], axis=1)


def pixels_of(boxes: Floats, heights: Indices, widths: Indices) -> Indices:
    """The pixels of each box that lie in its image.

    Args:
        boxes: `[N, 4]`, first pixel counted as 1.
        heights: `[N]`, of their images.
        widths: `[N]`

    Returns:
        `int64 [N, 4]`: left, top, right, bottom, the first pixel counted as 0, right and bottom outside.
    """
    corners = np.trunc(boxes).astype(np.int64)
    left, top = np.maximum(corners[:, 0], 1) - 1, np.maximum(corners[:, 1], 1) - 1
    return np.stack([left, top, np.minimum(corners[:, 2], widths), np.minimum(corners[:, 3], heights)], axis=1)


def close_to_the_next_pixel(boxes: Floats, sizes: Indices) -> NDArray[np.bool_]:
    """Whether rounding in the networks may have moved a corner of a box across the border between two pixels.

    Corners beyond the image are cut, and not close to anything.

    Args:
        boxes: `[N, 4]`, as `pixels_of` takes them.
        sizes: `[N, 2]`, height and width of their images.
    """
    sides = np.tile(sizes[:, ::-1], 2).astype(np.float32)
    inside = (boxes > 1) & (boxes < sides + 1)
    distance = np.abs(boxes - np.round(boxes))
    close: NDArray[np.bool_] = (inside & (distance < ROUNDING_OF_CORNERS * sides.max(axis=1, keepdims=True))).any(
        axis=1
    )
    return close
