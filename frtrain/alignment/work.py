"""What one process does with its photographs: decode, detect, cut out, keep the crop, say what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.alignment.crops import CropMaker
from frtrain.alignment.detector import Detector, Face
from frtrain.alignment.reading import Batches, Photograph, read_ahead
from frtrain.alignment.report import Record
from frtrain.errors import ImageError

DETECTOR_ERRORS = (RuntimeError, IndexError, ValueError, cv2.error)
"""Out of memory, and what a network makes of odd input."""


class DetectionError(RuntimeError):
    """A detector in another process failed; the text says how."""


class Assignment(NamedTuple):
    """One photograph to be done.

    Attributes:
        path: relative to the source.
        output: of its crop, relative to the target.
        points: its landmarks `float64 [5, 2]`, where the user brought them; None: the detector finds them.
    """

    path: str
    output: str
    points: NDArray[np.float64] | None = None


@dataclass
class LazyDetector:
    """A detector that is built when the first image is searched: one that is not needed costs nothing."""

    build: Callable[[], Detector]
    built: Detector | None = None

    def detect(self, images: list[NDArray[np.uint8]]) -> list[list[Face]]:
        """See `Detector.detect`."""
        if self.built is None:
            self.built = self.build()
        return self.built.detect(images)


def align_photographs(
    assignments: Iterable[Assignment],
    source: Path,
    detector: Detector,
    crops: CropMaker,
    batch_size: int,
    stopped: Callable[[], bool],
) -> Iterator[Record]:
    """One record per photograph, its crop kept; ends early, after the batch in hand, once `stopped`."""
    given: dict[str, Assignment] = {}

    def paths() -> Iterator[str]:
        for assignment in assignments:
            given[assignment.path] = assignment  # read in this order, by another thread
            yield assignment.path

    def searched(batch: list[Photograph]) -> Iterator[Record]:
        for photograph, (faces, failure) in zip(batch, search(detector, batch), strict=True):
            yield crops.from_faces(photograph, faces, given.pop(photograph.path).output, failure)

    batches = Batches(batch_size)
    with closing(read_ahead(source, paths())) as decoded:
        for path, result in decoded:
            if stopped():
                return
            points = given[path].points
            if isinstance(result, ImageError):
                del given[path]
                yield Record(path, "unreadable", reason=result.reason)
            elif points is not None:
                yield crops.from_points(result, points, given.pop(path).output)
            elif batch := batches.add(result):
                yield from searched(batch)
        if not stopped():
            yield from searched(batches.rest())


def search(detector: Detector, batch: list[Photograph]) -> list[tuple[list[Face], str | None]]:
    """The faces of each photograph, or why it could not be searched: one bad photograph must not cost the batch."""
    if not batch:
        return []
    try:
        return [(faces, None) for faces in detector.detect([photograph.image for photograph in batch])]
    except DETECTOR_ERRORS as error:
        if len(batch) == 1:
            how = str(error) if isinstance(error, DetectionError) else f"{type(error).__name__}: {error}"
            return [([], f"the detector failed ({how})")]
    return [found for photograph in batch for found in search(detector, [photograph])]
