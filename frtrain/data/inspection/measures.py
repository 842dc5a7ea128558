"""What is measured of one image."""

from __future__ import annotations

import hashlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.data.inspection.perceptual_hash import grey_of, hashes_of_grey

FORMATS = ("unknown", "JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF")
"""By the first bytes of a file, whatever its name says."""

_SIGNATURES = ((b"\xff\xd8\xff", 1), (b"\x89PNG\r\n\x1a\n", 2), (b"BM", 4), (b"GIF8", 5), (b"II*\0", 6), (b"MM\0*", 6))

MEASURES = np.dtype(
    [
        ("readable", "?"),
        ("grey", "?"),
        ("format", "u1"),
        ("bytes", "i8"),
        ("width", "i4"),
        ("height", "i4"),
        ("brightness", "f4"),
        ("contrast", "f4"),
        ("sharpness", "f4"),
        ("file_digest", "u8", (2,)),
        ("pixel_digest", "u8", (2,)),
        ("hash", "u8"),
        ("fine_hash", "u8", (4,)),
    ]
)
"""One image in 103 bytes.

    readable: it was decoded; otherwise all but format, bytes and file_digest is 0.
    grey: R = G = B in every pixel.
    format: position in `FORMATS`.
    bytes: of the encoded image; 0 for a source that stores none.
    brightness: mean of the grey image, 0 to 255.
    contrast: its standard deviation.
    sharpness: variance of its Laplacian, `sharpness_of`.
    file_digest, pixel_digest: the first 128 bits of SHA-256 of the encoded bytes, and of size and RGB pixels.
    hash, fine_hash: perceptual hashes of 64 and 256 bits.
"""


def measure_file(into: NDArray[Any], data: bytes) -> None:
    """Fill in what the encoded bytes tell: format, bytes, file_digest.

    Args:
        into: one record of `MEASURES`, `[1]`.
        data: the stored file.
    """
    into["bytes"] = len(data)
    into["format"] = _format_of(data)
    into["file_digest"] = _digest(hashlib.sha256(data))


def measure_pixels(into: NDArray[Any], image: NDArray[np.uint8]) -> None:
    """Fill in everything else.

    Args:
        into: one record of `MEASURES`, `[1]`.
        image: RGB `uint8 [H, W, 3]`, of any size.
    """
    image = np.ascontiguousarray(image)
    digest = hashlib.sha256(np.array(image.shape, dtype="<i8").tobytes())
    digest.update(image.data)
    grey = grey_of(image)
    mean, deviation = cv2.meanStdDev(grey)
    into["height"], into["width"] = image.shape[:2]
    into["brightness"], into["contrast"] = mean[0, 0], deviation[0, 0]
    into["sharpness"] = sharpness_of(grey)
    into["grey"] = is_grey(image)
    into["pixel_digest"] = _digest(digest)
    hashes = hashes_of_grey(grey)
    into["hash"], into["fine_hash"] = hashes[0], hashes[1:]
    into["readable"] = True


def sharpness_of(grey: NDArray[np.uint8]) -> float:
    """Variance over all pixels of the Laplacian L(x,y) = I(x+1,y) + I(x-1,y) + I(x,y+1) + I(x,y-1) - 4 I(x,y).

    Borders are mirrored. Low where edges are soft: blurred, enlarged or featureless images (Pech-Pacheco et al. 2000). It grows
    with noise and contrast, and depends on the size in pixels: compare images of one size.

    Args:
        grey: `uint8 [H, W]`, as `grey_of`.
    """
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2


def is_grey(image: NDArray[np.uint8]) -> bool:
    """Whether R = G = B in every pixel of `uint8 [H, W, 3]`."""
    few = image[::8, ::8]  # settles it for nearly every colour image
    return _equal_channels(few) and _equal_channels(image)


def _equal_channels(image: NDArray[np.uint8]) -> bool:
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    return np.array_equal(red, green) and np.array_equal(green, blue)


def _format_of(data: bytes) -> int:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return FORMATS.index("WebP")
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), 0)


def _digest(digest: Any) -> NDArray[np.uint64]:
    return np.frombuffer(digest.digest()[:16], dtype="<u8")
