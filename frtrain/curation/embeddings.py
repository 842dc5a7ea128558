"""The embeddings of a whole data set, kept in a file so that a stopped call goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource
from frtrain.data.inspection.perceptual_hash import grey_of, hashes_of_grey
from frtrain.data.source import Source
from frtrain.errors import DataError, ImageError
from frtrain.evaluation.embed import Embed, embed_batch, read_ahead
from frtrain.files import write_atomically
from frtrain.signals import StoppedError, StopRequest

BATCHES_BETWEEN_NOTES = 20
HASH_WORDS = 5
SAMPLED = 64


@dataclass(frozen=True)
class Embedded:
    """Every image of a source as the model sees it.

    Attributes:
        embeddings: `float16 [N, d]` of length 1, read from the disk as needed; zeros for an unreadable image.
        hashes: `uint64 [N, 5]`, perceptual hashes (`hashes_of_grey`); zeros for an unreadable image.
        readable: `bool [N]`.
    """

    embeddings: NDArray[np.float16]
    hashes: NDArray[np.uint64]
    readable: NDArray[np.bool_]

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of some images, `float32 [n, d]`."""
        return np.asarray(self.embeddings[indices], dtype=np.float32)


def embed_source(
    embed: Embed,
    source: Source,
    folder: Path,
    name: str,
    batch_size: int,
    identity: dict[str, Any],
    progress: Callable[[int], None] = lambda count: None,
) -> Embedded:
    """Embed every image of `source`, or go on where an earlier call stopped.

    Args:
        embed: the network.
        source: aligned crops.
        folder: where the embeddings are kept.
        name: of the files in it.
        batch_size: images for one call of `embed`.
        identity: plain values that say which model and data these are; kept ones of others are not used.
        progress: called with how many more images are done, at first with those of earlier calls.

    Raises:
        DataError: no image can be read, an embedding is not finite, or the folder cannot be written.
        StoppedError: a stop signal came; what is done is kept.
    """
    count = len(source)
    note = folder / f"{name}.json"
    begun = _read_note(note)
    goes_on = begun.get("identity") == identity and _Arrays.are_whole(folder, name, count, begun)
    done, width = (begun["done"], begun["width"]) if goes_on else (0, 0)
    try:
        with StopRequest() as stop:
            kept: _Arrays | None = _Arrays(folder, name, count, width, "r+") if done else None
            progress(done)
            batches = read_ahead(partial(_looked_at, source), range(done, count), batch_size)
            for number, (indices, looked_at) in enumerate(batches):
                found = [item for item in looked_at if item is not None]
                if found:
                    good = [item.number for item in found]
                    rows = embed_batch(embed, [item.image for item in found], good, False, source.describe)
                    if kept is None:
                        width = rows.shape[1]
                        note.unlink(missing_ok=True)  # it is about what the files are now cleared of
                        kept = _Arrays(folder, name, count, width, "w+")
                    kept.put(good, rows, [item.hashes for item in found])
                progress(len(indices))
                stopping = stop.signal is not None and indices.stop < count
                if kept is not None and (number % BATCHES_BETWEEN_NOTES == 0 or stopping or indices.stop == count):
                    kept.flush()
                    state = {"identity": identity, "width": width, "done": indices.stop}
                    write_atomically(note, json.dumps(state) + "\n")
                if stopping and stop.signal is not None:
                    raise StoppedError(
                        stop.signal,
                        f"{indices.stop:,} of {count:,} images are embedded; the same command goes on from there",
                    )
    except OSError as error:
        raise DataError(f"target={folder} cannot be written ({error.strerror or error})") from None
    if kept is None:
        raise DataError(f"none of the {count:,} images can be read, e.g. {source.describe(0)}")
    return Embedded(kept.embeddings, kept.hashes, kept.readable)


def sample_digest(source: Source) -> str:
    """Of the stored bytes of some images, evenly spread: new crops under the old names are noticed.

    Images that are not stored, or cannot be read, count by their description.
    """
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLED).astype(np.int64)).tolist():
        try:
            data = source.encoded(index) if isinstance(source, EncodedSource) else b""
        except ImageError:
            data = b""
        digest.update(hashlib.sha256(data or source.describe(index).encode("utf-8", "surrogateescape")).digest())
    return digest.hexdigest()[:16]


class _Arrays:
    """The three files of a data set's embeddings."""

    def __init__(self, folder: Path, name: str, count: int, width: int, mode: str):
        self._files = tuple(
            np.lib.format.open_memmap(path, mode, *(kind if mode == "w+" else ()))
            for path, kind in zip(self.paths(folder, name), self.kinds(count, width), strict=True)
        )
        if mode == "w+":
            self._reserve(self.paths(folder, name))
        self.embeddings: NDArray[np.float16]
        self.hashes: NDArray[np.uint64]
        self.readable: NDArray[np.bool_]
        self.embeddings, self.hashes, self.readable = self._files

    @staticmethod
    def paths(folder: Path, name: str) -> list[Path]:
        return [folder / f"{name}.{what}.npy" for what in ("embeddings", "hashes", "readable")]

    @staticmethod
    def _reserve(paths: list[Path]) -> None:
        """Take the files' room on the disk now: a write into a mapped file for which there is none ends the process."""
        try:
            for path in paths:
                with path.open("r+b") as file:
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError:
            for path in paths:
                path.unlink()
            raise

    @staticmethod
    def kinds(count: int, width: int) -> list[tuple[type, tuple[int, ...]]]:
        return [(np.float16, (count, width)), (np.uint64, (count, HASH_WORDS)), (np.bool_, (count,))]

    @classmethod
    def are_whole(cls, folder: Path, name: str, count: int, note: dict[str, Any]) -> bool:
        """Whether the files are what the note says; one that was cut would be filled up with zeros."""
        done, width = note.get("done"), note.get("width")
        if not (isinstance(done, int) and isinstance(width, int) and 0 < done <= count):
            return False
        try:
            files = [np.load(path, mmap_mode="r", allow_pickle=False) for path in cls.paths(folder, name)]
        except (OSError, ValueError, EOFError):
            return False
        return [(file.dtype.type, file.shape) for file in files] == cls.kinds(count, width)

    def put(self, indices: list[int], rows: NDArray[np.float32], hashes: list[NDArray[np.uint64]]) -> None:
        self.embeddings[indices] = rows
        self.hashes[indices] = np.stack(hashes)
        self.readable[indices] = True

    def flush(self) -> None:
        for file in self._files:
            file.flush()


def _read_note(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class _LookedAt(NamedTuple):
    """A readable image: its number, `uint8 [H, W, 3]` and `hashes_of_grey`."""

    number: int
    image: NDArray[np.uint8]
    hashes: NDArray[np.uint64]


def _looked_at(source: Source, index: int) -> _LookedAt | None:
    try:
        image = source.image(index)
    except ImageError:
        return None
    return _LookedAt(index, image, hashes_of_grey(grey_of(image)))
