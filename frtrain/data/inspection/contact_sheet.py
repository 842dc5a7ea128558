"""Sheets of small pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import CROP_SIZE
from frtrain.data.images import decode_image
from frtrain.data.inspection.summary import Summary
from frtrain.data.source import Source
from frtrain.errors import ImageError

ROWS, COLUMNS = 8, 10

PAPER, MISSING, CROSS = 255, 235, (200, 85, 61)

SheetOf = Literal["spread", "darkest", "brightest", "blurriest", "flattest", "duplicates"]


def thumbnail(source: Source, index: int, side: int = CROP_SIZE) -> NDArray[np.uint8]:
    """An image fitted into a white square, `uint8 [side, side, 3]`; a cross where it cannot be read."""
    encoded: Callable[[int], bytes] | None = getattr(source, "encoded", None)
    try:
        image = source.image(index) if encoded is None else decode_image(encoded(index), source.describe(index))
    except ImageError:
        return _cross(side)
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    square = np.full((side, side, 3), PAPER, dtype=np.uint8)
    top, left = (side - image.shape[0]) // 2, (side - image.shape[1]) // 2
    square[top : top + image.shape[0], left : left + image.shape[1]] = image
    return square


def contact_sheet(source: Source, rows: Sequence[Sequence[int]], side: int = CROP_SIZE) -> NDArray[np.uint8]:
    """Images row by row, `uint8 [len(rows) * side, COLUMNS * side, 3]`; longer rows are cut.

    Args:
        source: the data set.
        rows: positions in it.
        side: of one image, in pixels.
    """
    sheet = np.full((max(1, len(rows)) * side, COLUMNS * side, 3), PAPER, dtype=np.uint8)
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices[:COLUMNS]):
            top, left = row * side, column * side
            sheet[top : top + side, left : left + side] = thumbnail(source, int(index), side)
    return sheet


def sheet_rows(source: Source, summary: Summary, of: SheetOf) -> list[list[int]]:
    """Which images are shown.

    spread: a row for each of 8 identities, evenly spread over those of several images, or over all where these are fewer. duplicates: a row for each of the first
    8 groups. Otherwise the outermost 8 images of that measure, in one row.
    """
    if of == "spread":
        return _spread(source)
    if of == "duplicates":
        return [list(group.images[:COLUMNS]) for group in summary.duplicates.groups[:ROWS]]
    extreme = next(extreme for extreme in summary.extremes if extreme.name == of)
    return [[index for index, _ in extreme.images]]


def _spread(source: Source) -> list[list[int]]:
    counts = np.bincount(source.labels)
    several = np.flatnonzero(counts > 1)
    present = several if len(several) >= ROWS else np.flatnonzero(counts)
    chosen = present[np.unique(np.linspace(0, len(present) - 1, ROWS).astype(int))]
    return [np.flatnonzero(source.labels == label)[:COLUMNS].tolist() for label in chosen]


def _cross(side: int) -> NDArray[np.uint8]:
    square = np.full((side, side, 3), MISSING, dtype=np.uint8)
    cv2.line(square, (0, 0), (side - 1, side - 1), CROSS, 2)
    cv2.line(square, (0, side - 1), (side - 1, 0), CROSS, 2)
    return square
