"""Five landmarks to an aligned crop: the least-squares similarity transform and the warp through it."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

TEMPLATES: dict[str, NDArray[np.float64]] = {
    # Left eye, right eye (as seen in the image), nose tip, left and right corner of the mouth, for a 112x112 crop:
    # the positions of ArcFace's released crops, which every table published on them depends on.
    "arcface_112": np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
        dtype=np.float64,
    ),
    # The older 96 wide and 112 high crops of SphereFace and CosFace: the same face, 8 pixels less on either side.
    "sphereface_112x96": np.array(
        [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]],
        dtype=np.float64,
    ),
}
"""Landmark positions `float64 [5, 2]` as (x, y) in pixels of a crop 112 high, by template name."""

TEMPLATE_SIZE = 112
"""Height in pixels of the crops that `TEMPLATES` are for."""

TEMPLATE_WIDTHS = {"arcface_112": 112, "sphereface_112x96": 96}
"""Their widths."""

_MIN_SPREAD_PIXELS = 1e-3
_MIN_CORRELATION = 1e-3
_MAX_WARP_SIDE = 2**15 - 1  # cv2.warpAffine keeps source coordinates in 16 bits


def similarity_transform(points: NDArray[np.floating], template: NDArray[np.floating]) -> NDArray[np.float64]:
    """The rotation, uniform scale and shift, never a reflection, that bring `points` closest to `template`.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 1991. In the
    plane his solution is a linear regression over complex numbers: with both point sets centred, read as x + iy,
        a = sum(conj(p) q) / sum(|p|^2)
    is scale times rotation, and a complex factor cannot reflect.

    Args:
        points: `[N, 2]` landmarks (x, y) in the photograph, pixels; N >= 2.
        template: `[N, 2]` where they shall lie.

    Returns:
        `float64 [2, 3]`, the matrix M of `template ~ M @ (x, y, 1)`.

    Raises:
        ValueError: the shapes differ, a value is not finite, or the points (nearly) coincide or resemble the template
            in no orientation, so that scale and rotation are not determined.
    """
    if points.shape != template.shape or points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 2:
        raise ValueError(f"landmarks must be two arrays [N, 2], N >= 2, but are {points.shape} and {template.shape}")
    if not (np.isfinite(points).all() and np.isfinite(template).all()):
        raise ValueError("landmarks must be finite numbers")
    p, p_mean = _centred_complex(points)
    q, q_mean = _centred_complex(template)
    p_energy, q_energy = float(np.vdot(p, p).real), float(np.vdot(q, q).real)
    if math.sqrt(p_energy / len(p)) < _MIN_SPREAD_PIXELS:
        raise ValueError("landmarks coincide: no scale or rotation can be found")
    covariance = complex(np.vdot(p, q))
    if abs(covariance) <= _MIN_CORRELATION * math.sqrt(p_energy * q_energy):
        raise ValueError("landmarks resemble the template in no orientation: no rotation can be found")
    a = covariance / p_energy
    shift = q_mean - a * p_mean
    return np.array([[a.real, -a.imag, shift.real], [a.imag, a.real, shift.imag]], dtype=np.float64)


def crop_size(size: int, template: str) -> tuple[int, int]:
    """Height and width in pixels of a crop that is `size` high.

    Raises:
        KeyError: unknown template.
    """
    return size, max(1, round(size * TEMPLATE_WIDTHS[template] / TEMPLATE_SIZE))


def placed_template(size: int, template: str, margin: float = 0.0) -> NDArray[np.float64]:
    """Where the five landmarks lie in a crop, `float64 [5, 2]`.

    Args:
        size: height of the crop in pixels.
        template: a name of `TEMPLATES`.
        margin: what is added around the template on each side, as a share of its height and width. The crop keeps its
            size, so the face becomes smaller by 1 / (1 + 2 margin).

    Raises:
        KeyError: unknown template.
    """
    sides = np.array([TEMPLATE_WIDTHS[template], TEMPLATE_SIZE], dtype=np.float64)
    points: NDArray[np.float64] = (TEMPLATES[template] + margin * sides) / (1 + 2 * margin)
    return points * (size / TEMPLATE_SIZE)


def warp(
    image: NDArray[np.uint8],
    points: NDArray[np.floating],
    size: int = TEMPLATE_SIZE,
    template: str = "arcface_112",
    margin: float = 0.0,
) -> NDArray[np.uint8]:
    """Cut the aligned face out of a photograph; what lies outside the photograph is black.

    Bilinear. Bilinear sampling alone would skip pixels, and so alias, where the face is more than twice the size of
    the crop: there the surroundings of the face are first averaged over blocks of k x k pixels, k the whole part of
    the reduction. Faces up to twice the crop's size are sampled directly, exactly as `cv2.warpAffine` does.

    Args:
        image: RGB `uint8 [H, W, 3]`.
        points: `[5, 2]` landmarks (x, y) in pixels of `image`, in the order of `TEMPLATES`.
        size: height of the crop in pixels; the template is scaled with it.
        template: a name of `TEMPLATES`.
        margin: see `placed_template`.

    Returns:
        RGB `uint8 [size, width, 3]`, the width that of `crop_size`.

    Raises:
        ValueError: degenerate points; see `similarity_transform`.
        KeyError: unknown template.
    """
    matrix = similarity_transform(points, placed_template(size, template, margin))
    height, width = crop_size(size, template)
    reduction = 1 / math.hypot(matrix[0, 0], matrix[1, 0])
    block = max(1, math.floor(reduction + 1e-6))  # 1.9999999 is 2 in all but rounding
    if block > 1 or max(image.shape[:2]) >= _MAX_WARP_SIDE:
        image, matrix = _reduced_surroundings(image, matrix, (height, width), block)
    crop = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(crop, dtype=np.uint8)


def _centred_complex(points: NDArray[np.floating]) -> tuple[NDArray[np.complex128], complex]:
    x, y = points.astype(np.float64).T
    values = x + 1j * y
    mean = complex(values.mean())
    return values - mean, mean


def _reduced_surroundings(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int], block: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of `image` that the crop sees, averaged over `block` x `block` pixels, and the matrix for it."""
    inverse = cv2.invertAffineTransform(matrix)
    y, x = size
    corners = np.array([[0, 0, 1], [x, 0, 1], [0, y, 1], [x, y, 1]], dtype=np.float64) @ inverse.T
    height, width = image.shape[:2]
    limits = np.array([width, height])
    start = np.clip(np.floor(corners.min(axis=0)) - 2 * block, 0, limits).astype(int)
    stop = np.clip(np.ceil(corners.max(axis=0)) + 2 * block, 0, limits).astype(int)
    if (stop <= start).any():
        return np.zeros((1, 1, 3), dtype=np.uint8), matrix
    region = image[start[1] : stop[1], start[0] : stop[0]]
    rows, columns = (-(-side // block) for side in region.shape[:2])
    # Whole blocks only: a resize by a fraction would shift every landmark.
    missing = (rows * block - region.shape[0], columns * block - region.shape[1])
    whole = cv2.copyMakeBorder(region, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
    reduced = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    # The centre of reduced pixel u lies at block * u + (block - 1) / 2 + start in the photograph.
    to_image = np.array([[block, 0, 0], [0, block, 0], [0, 0, 1]], dtype=np.float64)
    to_image[:2, 2] = start + (block - 1) / 2
    return np.asarray(reduced, dtype=np.uint8), matrix @ to_image
