"""Photographs decoded ahead of the detector, and collected into batches."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.data.images import read_image
from frtrain.errors import ImageError

READ_AHEAD_PIXELS = 16_000_000
"""Decoded photographs that may wait for the detector (48 MB); one larger image still passes, alone."""

MAX_BATCH_PIXELS = 4_000_000
"""A batch of larger photographs is cut shorter: MTCNN's first layer takes some 30 bytes per pixel."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A decoded photograph: its path relative to the source, and RGB `uint8 [H, W, 3]`."""

    path: str
    image: NDArray[np.uint8]

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.image.shape[0] * self.image.shape[1]


class _Allowance:
    """Pixels that may be in memory at a time. A request is granted at once while nothing else is held."""

    def __init__(self, pixels: int):
        self._limit = pixels
        self._held = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, pixels: int) -> bool:
        """Wait until there is room; False if the reader was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + pixels <= self._limit)
            self._held += pixels
            return not self._closed

    def give(self, pixels: int) -> None:
        with self._changed:
            self._held -= pixels
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def read_ahead(source: Path, paths: Iterable[str]) -> Generator[tuple[str, Photograph | ImageError], None, None]:
    """Decode photographs in a background thread, in order, at most `READ_AHEAD_PIXELS` ahead.

    Args:
        source: the folder that `paths` are relative to.
        paths: of the photographs; taken by the background thread, which ends with them.

    Yields:
        The path with the photograph, or with the error that says why it cannot be read.
    """
    decoded: queue.SimpleQueue[tuple[str, Photograph | ImageError] | BaseException | None] = queue.SimpleQueue()
    allowance = _Allowance(READ_AHEAD_PIXELS)

    def decode() -> None:
        try:
            for path in paths:
                result: Photograph | ImageError
                try:
                    result = Photograph(path, read_image(source / path))
                except ImageError as error:
                    result = error
                if not allowance.take(_pixels(result)):
                    return
                decoded.put((path, result))
            decoded.put(None)
        except BaseException as error:  # a thread's error would be lost: it is raised where the images are used
            decoded.put(error)

    thread = threading.Thread(target=decode, name="decoder", daemon=True)
    thread.start()
    try:
        while (item := decoded.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            allowance.give(_pixels(item[1]))
    finally:
        allowance.close()  # the thread ends by itself: it may be waiting for a path that never comes


def _pixels(result: Photograph | ImageError) -> int:
    return result.pixels if isinstance(result, Photograph) else 1


class Batches:
    """Collects photographs, of any sizes, into batches for the detector."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._collected: list[Photograph] = []
        self._pixels = 0

    def add(self, photograph: Photograph) -> list[Photograph]:
        """Take a photograph; returns the batch that is now complete, else an empty list."""
        self._collected.append(photograph)
        self._pixels += photograph.pixels
        full = len(self._collected) >= self._batch_size or self._pixels >= MAX_BATCH_PIXELS
        return self.rest() if full else []

    def rest(self) -> list[Photograph]:
        """The incomplete batch, once; maybe empty."""
        batch, self._collected, self._pixels = self._collected, [], 0
        return batch
