"""Copying a source into a pack, image by image as they are, and reading the pack back to see that it is the same."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from frtrain.data.encoded import EncodedSource, decode_crop
from frtrain.data.images import read_file
from frtrain.data.manifest import CLASSES, read_classes, read_list
from frtrain.data.names import Names
from frtrain.data.packs.digest import ContentDigest
from frtrain.data.packs.folder import LIST
from frtrain.data.packs.target import Facts
from frtrain.data.packs.writer import PackWriter
from frtrain.errors import DataError, FrtrainError
from frtrain.signals import StoppedError, StopRequest

BLOCK, BLOCKS_AHEAD, READERS = 16, 12, 4

Told = Callable[[int, int], None]
"""Is told how many images are done, and how many bytes the last one had."""


def copy_images(source: EncodedSource, pack: PackWriter, stop: StopRequest, told: Told, decode: bool = False) -> Facts:
    """Bring all images of `source` that `pack` does not have yet into it, in their order, and complete it.

    Args:
        source: labels, names and encoded images; the images are not touched.
        pack: open for writing.
        stop: asked before each image.
        told: is called after each image.
        decode: also decode every image, to see that it is sound.

    Raises:
        ImageError: an image of the source cannot be read, or decoded. What was copied before it is kept.
        DataError: the target is full.
        StoppedError: a stop signal came; what was copied is kept.
    """
    if pack.facts is not None and pack.written != len(source):
        raise DataError(
            f"the pack has {pack.written:,} images, the source {len(source):,}: make it anew with redo=true"
        )
    for index, data in _read_ahead(source, pack.written):
        if stop.signal is not None:
            raise StoppedError(
                stop.signal, f"{index:,} of {len(source):,} images are copied; the same command goes on from there"
            )
        if decode:
            decode_crop(data, source.describe(index))
        pack.append(data, int(source.labels[index]), source.name(index))
        told(index + 1, len(data))
    return pack.finish(source.classes)


class WrittenFolder(EncodedSource):
    """A folder pack as it was written: images and labels of its list, in that order.

    Args:
        root: the folder.

    Raises:
        DataError: list or classes are missing.
    """

    def __init__(self, root: Path):
        self._root = root
        labels = array("q")

        def names() -> Iterator[str]:
            for _, label, name in read_list(root / LIST):
                labels.append(int(label))
                yield name

        self._names = Names.of(names())
        self.classes = read_classes(root / CLASSES)
        self.labels = np.array(labels, dtype=np.int64)
        self.fingerprint = f"folder pack:{len(labels)}"

    def encoded(self, index: int) -> bytes:
        """The file's content."""
        return read_file(self._root / self._names[index])

    def name(self, index: int) -> str:
        """The path below the folder."""
        return self._names[index]


def check_written(pack: EncodedSource, facts: Facts, target: Path, stop: StopRequest, told: Told) -> None:
    """Read a complete pack back and compare every image, label and name with what was written.

    Args:
        pack: the pack, opened as training opens it.
        facts: of the pack.
        target: its folder, for messages.
        stop: asked before each image.
        told: is called after each image.

    Raises:
        ImageError: an image cannot be read back.
        DataError: something differs.
        StoppedError: a stop signal came.
    """
    digest = ContentDigest()
    for index, data in _read_ahead(pack, 0):
        if stop.signal is not None:
            raise StoppedError(
                stop.signal,
                f"{target} is complete, but only {index:,} of {len(pack):,} images are verified; the same command "
                "verifies again",
            )
        digest.add(data, int(pack.labels[index]), pack.name(index))
        told(index + 1, len(data))
    compared = {
        "images": (len(pack), facts.images),
        "identities": (len(pack.classes), facts.identities),
        "images and labels (SHA-256)": (digest.content, facts.content_sha256),
        "names (SHA-256)": (digest.names_with(pack.classes), facts.names_sha256),
    }
    for what, (found, written) in compared.items():
        if found != written:
            raise DataError(
                f"target={target}: {what} read back from the pack differ from what was written ({found}, not {written}). "
                "The disk, the memory or another program has changed it; make it anew with redo=true"
            )


def _read_ahead(source: EncodedSource, start: int) -> Iterator[tuple[int, bytes]]:
    """Images from `start` on, a few of them read by threads in advance: file systems on a network answer slowly."""
    waiting: deque[tuple[range, Future[list[bytes]]]] = deque()
    following = start

    def read(block: range) -> list[bytes]:
        return [source.encoded(index) for index in block]

    with ThreadPoolExecutor(READERS) as pool:
        try:
            while following < len(source) or waiting:
                while len(waiting) < BLOCKS_AHEAD and following < len(source):
                    block = range(following, min(following + BLOCK, len(source)))
                    waiting.append((block, pool.submit(read, block)))
                    following = block.stop
                block, images = waiting.popleft()
                yield from zip(block, _or_one_by_one(source, block, images), strict=True)
        finally:
            for _, images in waiting:
                images.cancel()


def _or_one_by_one(source: EncodedSource, block: range, images: Future[list[bytes]]) -> Iterable[bytes]:
    """Where one cannot be read, those before it still come."""
    try:
        return images.result()
    except FrtrainError:
        return (source.encoded(index) for index in block)
