"""Data sets in which something is planted."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from frtrain.data.encoded import EncodedSource
from frtrain.data.inspection.groups import Duplicates, find_duplicates
from frtrain.data.inspection.scan import sample, scan
from frtrain.data.inspection.summary import Summary, summarize

Pixels = NDArray[np.uint8]


class StoredImages(EncodedSource):
    """Encoded images by identity, in memory."""

    def __init__(self, identities: Mapping[str, Sequence[bytes]]):
        self.classes = list(identities)
        self.files = [data for files in identities.values() for data in files]
        self.names = [f"{name}/{place}.jpg" for name, files in identities.items() for place in range(len(files))]
        self.labels = np.repeat(
            np.arange(len(identities), dtype=np.int64), [len(files) for files in identities.values()]
        )
        self.fingerprint = f"stored:{len(self.files)}"

    def encoded(self, index: int) -> bytes:
        return self.files[index]

    def name(self, index: int) -> str:
        return self.names[index]


class Pictures:
    """Pictures, and ways to store them."""

    @staticmethod
    def draw(seed: int, side: int = 112) -> Pixels:
        """A smooth random picture, as different from others as photographs are; values stay within 5 and 245."""
        noise = np.random.default_rng(seed).normal(128, 60, (9, 9, 3)).astype(np.float32)
        return np.clip(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), 5, 245).astype(np.uint8)

    @staticmethod
    def jpeg(image: Pixels, quality: int = 95) -> bytes:
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "JPEG", quality=quality)
        return encoded.getvalue()

    @staticmethod
    def png(image: Pixels, level: int = 6) -> bytes:
        encoded = io.BytesIO()
        Image.fromarray(image).save(encoded, "PNG", compress_level=level)
        return encoded.getvalue()


@pytest.fixture
def pictures() -> type[Pictures]:
    return Pictures


@pytest.fixture
def stored() -> type[StoredImages]:
    return StoredImages


@pytest.fixture
def summary_of() -> Callable[[StoredImages], Summary]:
    return lambda source: summarize(source, scan(source, sample(len(source), None), 0), 6)


@pytest.fixture
def duplicates_of() -> Callable[[StoredImages], Duplicates]:
    return lambda source: find_duplicates(scan(source, sample(len(source), None), 0), source.labels, 6)
