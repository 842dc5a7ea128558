"""Image files to RGB pixels: the one place where frtrain decodes."""

from __future__ import annotations

import io
import os
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from frtrain.data.jpeg import decode_ordinary_jpeg
from frtrain.errors import ImageError
from frtrain.files import write_atomically

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MAX_PIXELS = 100_000_000
"""Images above this many pixels are refused: decoding would take over 300 MB and is more often an attack or a mistake."""

_EXIF_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

warnings.filterwarnings("ignore", module="PIL")  # what matters becomes an ImageError
Image.MAX_IMAGE_PIXELS = None  # the limit is ours, checked on the header before a pixel is decoded


def is_image_path(path: Path) -> bool:
    """Whether the name has the extension of an image format that frtrain reads (any case, not hidden)."""
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a file as RGB, `uint8 [H, W, 3]`.

    Grey, palette, CMYK, 16-bit and alpha images are converted (transparency is dropped, colours stay as stored); of an animation the first frame is taken; the EXIF orientation is applied.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or larger than `MAX_PIXELS`.
    """
    return decode_image(read_file(path), path)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file.

    Raises:
        ImageError: it is missing, cannot be read, or is no regular file.
    """
    try:
        # Few system calls, for they cost as much as a third of decoding; without waiting for a pipe's other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(path, "is not a regular file")
            content = os.read(descriptor, status.st_size + 1)
            if len(content) == status.st_size:
                return content
            parts = [content]  # it grew, is larger than one read may be, or lies where sizes are not known
            while parts[-1]:
                parts.append(os.read(descriptor, 1 << 20))
            return b"".join(parts)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror or error})") from None


def decode_image(data: bytes, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode an encoded image; `path` only names it in errors. See `read_image`."""
    if not data:
        raise ImageError(path, "is empty (0 bytes)")
    pixels = decode_ordinary_jpeg(data, MAX_PIXELS)
    return _decode_by_pillow(data, path) if pixels is None else pixels


def _decode_by_pillow(data: bytes, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(path, f"is enormous ({width}x{height}; the limit is {MAX_PIXELS:,} pixels)")
            return _to_rgb(image)
    except UnidentifiedImageError:
        raise ImageError(path, "is not an image") from None
    except ImageError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        AttributeError,
        EOFError,
    ) as error:
        # Pillow's decoders report damage with any of these.
        raise ImageError(path, f"is damaged ({error})") from None
    except (MemoryError, struct.error) as error:
        raise ImageError(path, f"is damaged ({error})") from None


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _grey_to_rgb(np.asarray(image))
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; an EXIF block that cannot be read says nothing."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except (OSError, SyntaxError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, struct.error):
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _grey_to_rgb(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """High-bit-depth grey: 16-bit values are scaled by 1/257, so that white stays white."""
    wide = values.astype(np.float64)
    scale = 257.0 if wide.max(initial=0.0) > 255 else 1.0
    grey = np.clip(np.rint(wide / scale), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def write_png_or_jpeg(path: Path, image: NDArray[np.uint8], quality: int = 95) -> None:
    """Write RGB `uint8 [H, W, 3]` by the extension of `path`, aside and renamed, so that no half file can stay.

    Raises:
        OSError: the folder cannot be written or is full.
    """
    write_atomically(path, encode_png_or_jpeg(image, path.suffix, quality))  # Pillow itself overlooks a short write


def encode_png_or_jpeg(image: NDArray[np.uint8], extension: str, quality: int = 95) -> bytes:
    """RGB `uint8 [H, W, 3]` as the content of a PNG (`.png`, any case) or JPEG file."""
    options = {"format": "PNG"} if extension.lower() == ".png" else {"format": "JPEG", "quality": quality}
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, **options)
    return encoded.getvalue()
