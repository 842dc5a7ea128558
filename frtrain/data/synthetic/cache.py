"""Rendered crops on disk, so that each is drawn once: a file of fixed-size records, shared by any number of processes."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_CHECKSUM_BYTES = 4


class CropCache:
    """`count` images of one shape in the sparse file `path`.

    A record is the pixels' CRC-32 followed by the pixels, read and written by position in one call. A record that was
    never written, half written at a crash, or damaged on the disk fails its checksum and counts as missing, so processes
    need no locks: two that render the same crop write the same bytes. Plain reads and writes rather than a memory map,
    because a full disk is then an error and not a fatal signal.

    A cache that cannot be used (read-only or full disk) warns once and from then on holds nothing.
    """

    def __init__(self, path: Path, count: int, shape: tuple[int, int, int]):
        self.path = path
        self.count = count
        self.shape = shape
        self._file: int | None = None
        self._usable = True
        self._open()

    def get(self, index: int) -> NDArray[np.uint8] | None:
        """The image `uint8 [H, W, C]` (writable, the caller's own), or None if it is not there."""
        file = self._open()
        if file is None:
            return None
        try:
            record = os.pread(file, self._record_bytes, index * self._record_bytes)
        except OSError as error:
            self._give_up(error)
            return None
        pixels = record[_CHECKSUM_BYTES:]
        if len(record) != self._record_bytes or zlib.crc32(pixels) != int.from_bytes(
            record[:_CHECKSUM_BYTES], "little"
        ):
            return None
        return np.frombuffer(pixels, np.uint8).reshape(self.shape).copy()

    def put(self, index: int, image: NDArray[np.uint8]) -> None:
        """Keep an image of the cache's shape."""
        file = self._open()
        if file is None:
            return
        pixels = image.tobytes()
        record = zlib.crc32(pixels).to_bytes(_CHECKSUM_BYTES, "little") + pixels
        try:
            os.pwrite(file, record, index * self._record_bytes)
        except OSError as error:
            self._give_up(error)

    @property
    def usable(self) -> bool:
        """Whether images can be kept."""
        return self._usable

    @property
    def _record_bytes(self) -> int:
        height, width, channels = self.shape
        return _CHECKSUM_BYTES + height * width * channels

    def _open(self) -> int | None:
        if self._file is None and self._usable:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
            except OSError as error:
                self._give_up(error)
        return self._file

    def _give_up(self, error: OSError) -> None:
        logger.warning(
            "cache %s cannot be used (%s): synthetic faces are rendered anew each time, which is slower; "
            "choose another folder with data.cache=PATH, or none with data.cache=null",
            self.path,
            error.strerror or error,
        )
        self._close()
        self._usable = False

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self._close()
