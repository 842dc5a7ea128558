"""The fast way of decoding ordinary JPEGs; whatever is not ordinary is left to Pillow.

torchvision's decoder is libjpeg-turbo, as Pillow's, without Pillow's overhead. It fails where the data end too early,
and where libjpeg itself gives up, so what it returns is what Pillow would return (tests/data/test_jpeg.py cuts and
damages files and compares). OpenCV's decoder is about a tenth faster still, but returns grey areas for damaged files.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

START_OF_IMAGE = b"\xff\xd8"
FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive, Huffman-coded."""

SKIPPED = frozenset({0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE})
"""Segments that may stand before the first scan: tables, comments, and applications' blocks but the first kind.

The first kind, 0xE1, holds EXIF and XMP, either of which may state an orientation.
"""

START_OF_SCAN = 0xDA

AS_STORED = 0
"""torchvision's `ImageReadMode.UNCHANGED`: colour as RGB, grey and CMYK as they are."""


def decode_ordinary_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """RGB `uint8 [H, W, 3]` of an undamaged colour JPEG of at most `max_pixels`; None where Pillow has to see to it.

    None for other formats, grey and CMYK, whatever has an EXIF or XMP block, and all that torchvision refuses.
    """
    size = ordinary_size(data)
    if size is None or not 0 < size[0] * size[1] <= max_pixels:
        return None
    decode = decoder()
    if decode is None:
        return None
    try:
        planes = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), AS_STORED)
    except RuntimeError:
        return None
    pixels: NDArray[np.uint8] = planes.numpy().transpose(1, 2, 0)  # as it lies in memory
    return pixels if pixels.shape == (*size, 3) else None


def ordinary_size(data: bytes) -> tuple[int, int] | None:
    """Height and width that the header of a JPEG states; None unless it has three components of 8 bits and no more to say."""
    if not data.startswith(START_OF_IMAGE):
        return None
    size, at, end = None, 2, len(data) - 10
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == START_OF_SCAN:
            return size
        if marker in FRAMES:
            if size is not None or data[at + 4] != 8 or data[at + 9] != 3:
                return None
            size = (data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8])
        elif marker not in SKIPPED:
            return None
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


@lru_cache(maxsize=1)
def decoder() -> Callable[[torch.Tensor, int], torch.Tensor] | None:
    """torchvision's operator, file content `uint8 [n]` -> planes `uint8 [3, H, W]`; None where there is no usable one.

    It is tried on one picture first: torchvision announces (0.29) that a later release will come without decoders, and
    some builds have another libjpeg than Pillow. Its library alone is loaded: importing torchvision takes two seconds and
    160 MB in every process.
    """
    try:
        package = find_spec("torchvision")
        for library in sorted(Path(str(package and package.origin)).parent.glob("image*.so")):
            torch.ops.load_library(str(library))
    except OSError:
        return None
    picture = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8).repeat(6, 0).repeat(6, 1)
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "JPEG", quality=80)
    try:
        decode: Callable[[torch.Tensor, int], torch.Tensor] = torch.ops.image.decode_jpeg
        planes = decode(torch.frombuffer(bytearray(encoded.getvalue()), dtype=torch.uint8), AS_STORED)
    except (AttributeError, RuntimeError, NotImplementedError, TypeError):
        return None
    with Image.open(encoded) as expected:
        return decode if np.array_equal(planes.permute(1, 2, 0).numpy(), np.asarray(expected)) else None
