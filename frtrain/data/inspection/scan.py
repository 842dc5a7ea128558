"""The pass over all images: measured in several processes, kept in compact arrays."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.data.images import decode_image
from frtrain.data.inspection.measures import MEASURES, measure_file, measure_pixels
from frtrain.data.source import Source
from frtrain.errors import DataError, ImageError

CHUNK = 256
"""Images that a process is given at once."""

WORTH_A_PROCESS = 20_000
"""Images below which starting processes takes longer than they save."""

Reasons = dict[int, str]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Scan:
    """What the pass found, 111 bytes an image.

    Attributes:
        indices: `int64 [n]`, positions in the source that were looked at, ascending.
        measures: `MEASURES [n]`.
        reasons: position in the source -> why the image cannot be read.
    """

    indices: NDArray[np.int64]
    measures: NDArray[Any]
    reasons: Reasons

    def __len__(self) -> int:
        return len(self.indices)

    def readable(self) -> Scan:
        """The images that could be read; itself where that is all of them."""
        read = self.measures["readable"]
        return self if read.all() else Scan(self.indices[read], self.measures[read], {})


def sample(total: int, wanted: int | None) -> NDArray[np.int64]:
    """`wanted` of `total` positions, evenly spread, `int64`; None: all."""
    if wanted is None or wanted >= total:
        return np.arange(total, dtype=np.int64)
    return (2 * np.arange(wanted, dtype=np.int64) + 1) * total // (2 * wanted)


def scan(source: Source, indices: NDArray[np.int64], workers: int, progress: Progress = lambda count: None) -> Scan:
    """Look at the images at `indices`.

    Encoded images are decoded whatever their size. The result is the same for any number of workers.

    Args:
        source: the data set.
        indices: `int64 [n]`, ascending.
        workers: processes; 0: this one.
        progress: called with the number of images dealt with since the last call.

    Raises:
        DataError: a process was killed.
    """
    chunks = (indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK))
    measures = np.zeros(len(indices), dtype=MEASURES)
    reasons: Reasons = {}
    shared: dict[str, str] = {}  # a million times the same reason is kept once
    done = 0
    for part, failed in _measured(source, chunks, workers):
        measures[done : done + len(part)] = part
        reasons.update({index: shared.setdefault(reason, reason) for index, reason in failed.items()})
        done += len(part)
        progress(len(part))
    return Scan(indices, measures, reasons)


def choose_processes(images: int, cores: int) -> int:
    """How many processes are worth starting for so many images; 0: none."""
    return min(cores, images // WORTH_A_PROCESS) if cores > 1 and images >= 2 * WORTH_A_PROCESS else 0


def measure_all(source: Source, indices: NDArray[np.int64]) -> tuple[NDArray[Any], Reasons]:
    """Measure some images in this process."""
    encoded: Callable[[int], bytes] | None = getattr(source, "encoded", None)
    measures = np.zeros(len(indices), dtype=MEASURES)
    reasons: Reasons = {}
    for place, index in enumerate(indices.tolist()):
        record = measures[place : place + 1]
        try:
            if encoded is None:
                measure_pixels(record, source.image(index))
            else:
                data = encoded(index)
                measure_file(record, data)
                measure_pixels(record, decode_image(data, ""))
        except ImageError as error:
            reasons[index] = error.reason
    return measures, reasons


def _measured(
    source: Source, chunks: Iterator[NDArray[np.int64]], workers: int
) -> Iterator[tuple[NDArray[Any], Reasons]]:
    if workers == 0:
        for chunk in chunks:
            yield measure_all(source, chunk)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (source,)) as pool:
        try:
            waiting: list[Future[tuple[NDArray[Any], Reasons]]] = []
            # A few chunks ahead of the one that is waited for: all at once would pile up where one is slow.
            waiting.extend(pool.submit(_measure_chunk, chunk) for chunk in islice(chunks, 4 * workers))
            while waiting:
                yield waiting.pop(0).result()
                waiting.extend(pool.submit(_measure_chunk, chunk) for chunk in islice(chunks, 1))
        except BrokenProcessPool:
            raise DataError(
                "a process that reads images was killed. Memory may have run out: use fewer workers (workers=0 reads in "
                "one process)"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_sources: list[Source] = []
"""The data set of this worker process, sent once."""


def _start_worker(source: Source) -> None:
    """The processes share the cores between them already, and leave Ctrl-C to the process that waits for them."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _sources.append(source)


def _measure_chunk(indices: NDArray[np.int64]) -> tuple[NDArray[Any], Reasons]:
    return measure_all(_sources[-1], indices)
