"""InsightFace's verification packs, `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`: encoded images in pairs, and which are genuine.

Such a file is a pickle of `(images, genuine)`: `2 P` encoded images, pair after pair, and `P` truth values. Unpickling
may run anything, so this reader never unpickles: it walks through the instructions by itself, knows only those that
such packs need, calls nothing that the file names and imports nothing. Packs of Python 2 and 3, of bytes and of `uint8`
arrays, of every pickle protocol are read.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.data.formats.pickled import Array, read_pickled
from frtrain.errors import DataError
from frtrain.files import atomic_file


@dataclass(frozen=True, eq=False)
class VerificationPack:
    """Pairs of faces.

    Attributes:
        images: `2 P` encoded images; pair `i` is `images[2 i]` and `images[2 i + 1]`.
        genuine: `bool [P]`, whether both images of a pair show one person.
    """

    images: Sequence[bytes]
    genuine: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.genuine)


def read_pack(path: str | Path) -> VerificationPack:
    """Read a pack. Memory stays within a small multiple of the file's size, whatever the file says.

    Raises:
        DataError: the file cannot be read, is cut short, holds anything but pairs of encoded images, or asks to import or
            call something; names what.
    """
    path = Path(path)
    try:
        if not path.is_dir() and path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a regular file")  # opening a pipe would wait for its other end
        with path.open("rb") as file:
            if not file.seek(0, 2):
                raise DataError(f"{path}: is empty; expected a verification pack as InsightFace's lfw.bin")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                value = read_pickled(content, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise DataError(
            f"{path}: is no verification pack: expected a pair (images, genuine), as in InsightFace's lfw.bin"
        )
    images, genuine = _images(value[0], path), _truths(value[1], path)
    if len(images) != 2 * len(genuine):
        raise DataError(
            f"{path}: holds {len(images):,} images and {len(genuine):,} pairs; a verification pack has two images per pair"
        )
    return VerificationPack(images, genuine)


def write_pack(path: Path, images: Iterable[bytes], genuine: NDArray[np.bool_]) -> None:
    """Write a pack that InsightFace's `load_bin` reads: a pickle of protocol 3 of a list of bytes and a list of bool.

    The same images give the same file, byte for byte. One image at a time is held in memory.

    Args:
        path: the file; it appears when it is complete.
        images: `2 P` encoded images, pair after pair.
        genuine: `bool [P]`.

    Raises:
        OSError: it cannot be written; nothing is left behind.
        ValueError: there are not two images per pair, or one is empty or above 4 GiB.
    """
    with atomic_file(path) as file:
        file.write(pickle.PROTO + b"\x03" + pickle.EMPTY_LIST + pickle.MARK)
        count = sum(file.write(_bytes_instruction(image)) > 0 for image in images)
        if count != 2 * len(genuine):
            raise ValueError(f"{count:,} images for {len(genuine):,} pairs; a pair has two")
        file.write(pickle.APPENDS + pickle.EMPTY_LIST + pickle.MARK)
        file.write(b"".join(pickle.NEWTRUE if same else pickle.NEWFALSE for same in genuine.tolist()))
        file.write(pickle.APPENDS + pickle.TUPLE2 + pickle.STOP)
        file.flush()
        os.fsync(file.fileno())


def _bytes_instruction(image: bytes) -> bytes:
    if not 0 < len(image) < 2**32:
        raise ValueError(f"an image has {len(image):,} bytes; a pack holds images of 1 byte to 4 GiB")
    return pickle.BINBYTES + struct.pack("<I", len(image)) + image


def _images(value: object, path: Path) -> list[bytes]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{path}: is no verification pack: its first part is no list of images")
    images = []
    for number, item in enumerate(value):
        if isinstance(item, Array):
            if item.kind != "uint8" or max(item.shape, default=0) != len(item.data):  # OpenCV's encoder makes [n, 1]
                raise DataError(
                    f"{path}: image {number} is an array of {item.kind} of shape {item.shape}; expected an encoded image "
                    "(JPEG or PNG), as bytes or as uint8 [n]"
                )
            item = item.data
        if not isinstance(item, bytes) or not item:
            what = "empty" if item == b"" else f"a {type(item).__name__}"
            raise DataError(f"{path}: image {number} is {what}; expected an encoded image (JPEG or PNG)")
        images.append(item)
    return images


def _truths(value: object, path: Path) -> NDArray[np.bool_]:
    if isinstance(value, Array) and len(value.shape) == 1:
        value = list(value.data)
    if not isinstance(value, list | tuple) or not all(isinstance(item, int) and item in (0, 1) for item in value):
        raise DataError(f"{path}: is no verification pack: its second part is no list of True and False")
    return np.array(value, dtype=bool)
