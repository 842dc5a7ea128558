"""One number for all images of a data set, the same in whatever form they are stored."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

START = bytes(32)


class ContentDigest:
    """A chain of SHA-256 over images in their order, and another over their names.

    content: `d' = SHA256(d, label as int64, length as uint64, bytes)`, little-endian, from 32 zero bytes on.
    names:   `d' = SHA256(d, length as uint64, name)`, and the identity names at the end in the same way.

    A chain, unlike one hash over everything, can be kept as 32 bytes and gone on with after a kill.

    Args:
        content, names: as `state` gave them; by default those of no images.
    """

    def __init__(self, content: str = START.hex(), names: str = START.hex()):
        self._content = bytes.fromhex(content)
        self._names = bytes.fromhex(names)

    def add(self, data: bytes, label: int, name: str) -> None:
        """The next image."""
        link = hashlib.sha256(self._content)
        link.update(struct.pack("<qQ", label, len(data)))
        link.update(data)
        self._content = link.digest()
        self._names = _named(self._names, name)

    @property
    def content(self) -> str:
        """Of all labels and images so far, hexadecimal."""
        return self._content.hex()

    @property
    def names(self) -> str:
        """Of all image names so far, hexadecimal."""
        return self._names.hex()

    def names_with(self, classes: Sequence[str]) -> str:
        """Of all image names and the identity names, hexadecimal."""
        link = self._names
        for name in classes:
            link = _named(link, name)
        return link.hex()


def _named(link: bytes, name: str) -> bytes:
    text = name.encode("utf-8", "surrogateescape")
    return hashlib.sha256(link + struct.pack("<Q", len(text)) + text).digest()
