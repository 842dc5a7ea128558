"""Sources whose images are stored encoded, as JPEG or PNG: the bytes can be taken out as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frtrain.data.images import decode_image
from frtrain.data.jpeg import decode_ordinary_jpeg
from frtrain.data.preprocessing import Preprocessing
from frtrain.data.source import Source
from frtrain.errors import ImageError

CROP_SIZE = Preprocessing().size


class EncodedSource(ABC):
    """A `Source` of stored image files. A kind of storage fills in `encoded` and `name`.

    Attributes:
        classes, labels, fingerprint: as `Source`.
    """

    classes: Sequence[str]
    labels: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The stored file, byte by byte.

        Raises:
            ImageError: it cannot be read, or what holds it is damaged there.
        """

    def encoded_batch(self, indices: Sequence[int]) -> list[bytes | ImageError]:
        """The stored files of several images, each as `encoded` gives it, or why it cannot."""
        return [_encoded_or_error(self, index) for index in indices]

    @abstractmethod
    def name(self, index: int) -> str:
        """A relative path with `/` that names the image within the data set: unique, the same in every call.

        `<identity>/<file>` where the data set knows it; a pack without names makes one of label and number. Exclusion
        lists name images by it, and `frtrain convert` keeps it.
        """

    def describe(self, index: int) -> str:
        """Where the image is, for messages."""
        return self.name(index)

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB `uint8 [112, 112, 3]`.

        Raises:
            ImageError: it cannot be read or decoded, or is not a 112x112 crop.
        """
        return self.decoded(self.encoded(index), index)

    def decoded(self, data: bytes, index: int) -> NDArray[np.uint8]:
        """The crop of the stored file `data` of image `index`: `image` for who has read it already.

        Raises:
            ImageError: see `image`.
        """
        image = decode_ordinary_jpeg(data, CROP_SIZE * CROP_SIZE)
        if image is not None and image.shape[0] == image.shape[1] == CROP_SIZE:
            return image  # without asking for a name, which takes longer than one would think
        return decode_crop(data, self.describe(index))


def _encoded_or_error(source: EncodedSource, index: int) -> bytes | ImageError:
    try:
        return source.encoded(index)
    except ImageError as error:
        return error


def image_name(source: Source, index: int) -> str:
    """The name by which lists know an image: `EncodedSource.name`, and how it is made where images are not stored."""
    return source.name(index) if isinstance(source, EncodedSource) else source.describe(index)


def decode_crop(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode one aligned crop; `where` only names it in errors.

    Raises:
        ImageError: the data are damaged, or of another size.
    """
    image = decode_image(data, where)
    if image.shape[:2] != (CROP_SIZE, CROP_SIZE):
        raise ImageError(
            where,
            f"is {image.shape[1]}x{image.shape[0]}, not an aligned {CROP_SIZE}x{CROP_SIZE} crop; "
            "make crops with: python -m frtrain align source=... target=...",
        )
    return image
