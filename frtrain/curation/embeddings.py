"""The embeddings of a whole data set, kept in a file so that a stopped call goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.data.inspection.perceptual_hash import grey_of, hashes_of_grey
from frtrain.data.source import Source
from frtrain.errors import DataError, ImageError
from frtrain.evaluation.embed import Embed, normalised
from frtrain.files import write_atomically
from frtrain.signals import StoppedError, StopRequest

READING_THREADS = 4
BATCHES_BETWEEN_NOTES = 20
HASH_WORDS = 5


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
        progress: called with the number of images done, those of earlier calls included.

    Raises:
        DataError: no image can be read, an embedding is not finite, or the folder cannot be written.
        StoppedError: a stop signal came; what is done is kept.
    """
    count = len(source)
    note = folder / f"{name}.json"
    begun = _read_note(note)
    done, width = (int(begun["done"]), int(begun["width"])) if begun.get("identity") == identity else (0, 0)
    try:
        with StopRequest() as stop, ThreadPoolExecutor(READING_THREADS) as pool:
            kept: _Arrays | None = _Arrays(folder, name, count, width, "r+") if done else None
            progress(done)
            for number, start in enumerate(range(done, count, batch_size)):
                indices = range(start, min(start + batch_size, count))
                images, good, hashes = _read(source, indices, pool)
                rows = _embed(embed, images, [indices[at] for at in good], source)
                if rows is not None:
                    if kept is None:
                        width = rows.shape[1]
                        kept = _Arrays(folder, name, count, width, "w+")
                    kept.put([indices[at] for at in good], rows, hashes)
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


class _Arrays:
    """The three files of a data set's embeddings."""

    def __init__(self, folder: Path, name: str, count: int, width: int, mode: str):
        def array(what: str, dtype: type, shape: tuple[int, ...]) -> Any:
            path = folder / f"{name}.{what}.npy"
            return np.lib.format.open_memmap(
                path, mode, None if mode == "r+" else dtype, shape if mode == "w+" else None
            )

        self._files = (
            array("embeddings", np.float16, (count, width)),
            array("hashes", np.uint64, (count, HASH_WORDS)),
            array("readable", np.bool_, (count,)),
        )
        self.embeddings: NDArray[np.float16]
        self.hashes: NDArray[np.uint64]
        self.readable: NDArray[np.bool_]
        self.embeddings, self.hashes, self.readable = self._files

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


def _read(
    source: Source, indices: range, pool: ThreadPoolExecutor
) -> tuple[list[NDArray[np.uint8]], list[int], list[NDArray[np.uint64]]]:
    """The readable images of a batch, their places in it and their hashes."""

    def read(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint64]] | None:
        try:
            image = source.image(index)
        except ImageError:
            return None
        return image, hashes_of_grey(grey_of(image))

    found = list(islice(pool.map(read, indices), len(indices)))
    good = [place for place, item in enumerate(found) if item is not None]
    readable = [item for item in found if item is not None]
    return [image for image, _ in readable], good, [value for _, value in readable]


def _embed(
    embed: Embed, images: list[NDArray[np.uint8]], indices: list[int], source: Source
) -> NDArray[np.float32] | None:
    if not images:
        return None
    with torch.inference_mode():
        rows = embed(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()).float().cpu().numpy()
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise DataError(
            f"the embedding of {source.describe(indices[int(broken[0])])} holds NaN or infinity: the weights of the model "
            "have diverged"
        )
    return normalised(rows)
