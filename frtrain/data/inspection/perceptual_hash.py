"""Perceptual hashes: short codes that stay nearly the same when a picture is re-encoded, relit or shifted by a pixel."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE, FINE, COARSE = 32, 16, 8
"""Pixels of the reduced picture, and how many of its lowest frequencies a hash looks at, along each side."""

FLAT_COEFFICIENT = 1.0 / 16
"""Coefficients (orthonormal DCT, in grey levels) must lie this far above the median: rounding errors are no picture."""


def _cosines() -> NDArray[np.float32]:
    """Rows of the orthonormal DCT-II for frequencies 0 to 15, `[16, 32]`."""
    frequency, place = np.arange(FINE)[:, None], np.arange(SIDE)[None, :]
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


_COSINES = _cosines()


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """The 64-bit DCT hash ("pHash") of an RGB image `uint8 [H, W, 3]`, of any size.

    The grey image is reduced to 32x32 by averaging areas and transformed by a DCT-II. The 8x8 lowest frequencies give one bit
    each, in reading order, the highest bit first: 1 where the coefficient is above the median of the 63 without the mean
    brightness. Two hashes are compared by the number of bits that differ (Hamming distance).
    """
    return int(hashes_of_grey(grey_of(image))[0])


def grey_of(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """0.299 R + 0.587 G + 0.114 B, rounded, `uint8 [H, W]`, of RGB `uint8 [H, W, 3]`."""
    grey: NDArray[np.uint8] = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    return grey


def hashes_of_grey(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hash of `perceptual_hash` and, in the same manner from the 16x16 lowest frequencies, one of 256 bits.

    Args:
        grey: `uint8 [H, W]`.

    Returns:
        `uint64 [5]`: the 64-bit hash, then the 256 bits in four parts.
    """
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    spectrum = _COSINES @ small @ _COSINES.T
    bits = [_above_median(spectrum[:COARSE, :COARSE]), _above_median(spectrum)]
    return np.packbits(np.concatenate(bits)).view(">u8").astype(np.uint64)


def _above_median(spectrum: NDArray[np.float32]) -> NDArray[np.bool_]:
    coefficients = spectrum.ravel()
    middle = len(coefficients) // 2 - 1  # of an odd number, those without the mean
    median = np.partition(coefficients[1:], middle)[middle]
    return coefficients > median + FLAT_COEFFICIENT
