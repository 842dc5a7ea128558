from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frtrain.config_files import completed
from frtrain.data import SOURCES
from frtrain.data.encoded import EncodedSource


class ListedSource(EncodedSource):
    """Images given one by one."""

    def __init__(self, images: list[tuple[bytes, int, str]], classes: list[str]):
        self._images = images
        self.classes = classes
        self.labels = np.array([label for _, label, _ in images], dtype=np.int64)
        self.fingerprint = hashlib.sha256(repr(images).encode()).hexdigest()

    def encoded(self, index: int) -> bytes:
        return self._images[index][0]

    def name(self, index: int) -> str:
        return self._images[index][2]


def stored_image(number: int, size: int = 200) -> bytes:
    """Bytes that look like a JPEG file to whoever does not decode it."""
    noise = np.random.default_rng(number).integers(0, 256, size + number % 7, dtype=np.uint8)
    return b"\xff\xd8\xff" + noise.tobytes()


@pytest.fixture
def listed_source() -> Callable[..., ListedSource]:
    """A source of `(bytes, label, name)`, or of so many images of three identities in turn."""

    def make(images: list[tuple[bytes, int, str]] | int = 17, classes: list[str] | None = None) -> ListedSource:
        classes = classes or ["Ana", "Bo", "Cy"]
        if isinstance(images, int):
            images = [
                (stored_image(n), n * len(classes) // images, f"{classes[n * len(classes) // images]}/{n:03d}.jpg")
                for n in range(images)
            ]
        return ListedSource(images, classes)

    return make


@pytest.fixture
def tree() -> Callable[[Path], dict[bytes, bytes]]:
    """Every file below a folder with its content, the names as bytes."""

    def read(root: Path) -> dict[bytes, bytes]:
        return {os.fsencode(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    return read


@pytest.fixture
def opened() -> Callable[..., EncodedSource]:
    """A data set as training opens it."""

    def build(kind: str, root: Path, **keys: Any) -> EncodedSource:
        source = SOURCES.build(completed("data", {"name": kind, "root": str(root), **keys}))
        assert isinstance(source, EncodedSource)
        return source

    return build
