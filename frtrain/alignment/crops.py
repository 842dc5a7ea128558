"""From a photograph and its faces to a crop, where it is kept, and the record of it."""

from __future__ import annotations

import errno
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.alignment.choice import choose_face
from frtrain.alignment.detector import Face
from frtrain.alignment.reading import Photograph
from frtrain.alignment.report import SECOND_SEARCH, Record, SpoolPlace
from frtrain.alignment.target import unwritable
from frtrain.alignment.transform import crop_size, warp
from frtrain.data.images import encode_png_or_jpeg
from frtrain.files import write_atomically

_PART = re.compile(r"\.(.+)\.\d+\.part", re.DOTALL)


@dataclass(frozen=True)
class CropStyle:
    """What a crop looks like.

    Attributes:
        size: height in pixels; the width follows from the template.
        template: where the landmarks lie (`frtrain.alignment.transform.TEMPLATES`).
        format: file format and extension.
        quality: of a JPEG, 1 to 100.
        no_face: of a photograph without a found face, `skip`: make no crop; `centre`: cut out its centre.
        margin: added around the template on each side, as a share of its height and width.
    """

    size: int
    template: str
    format: Literal["jpg", "png"]
    quality: int
    no_face: Literal["skip", "centre"]
    margin: float = 0.0


def centre_crop(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The largest centred part of `uint8 [H, W, 3]` of the crop's shape, resized to `[height, width, 3]`."""
    scale = min(image.shape[0] / height, image.shape[1] / width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image.shape[0] - rows) // 2, (image.shape[1] - columns) // 2
    part = image[top : top + rows, left : left + columns]
    interpolation = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (width, height), interpolation=interpolation), dtype=np.uint8)


class CropSink(ABC):
    """Where crops are kept. Each process has its own."""

    def __init__(self, target: Path):
        self.target = target

    def keep(self, output: str, data: bytes) -> SpoolPlace | None:
        """Keep one encoded crop under its name; it is in the operating system's hands when this returns.

        Returns:
            Where it is in the spool; None if it is a file of its own.

        Raises:
            NameTooLongError: the file system does not take the name.
            DataError: the target cannot be written or is full. No half-written crop is left.
        """
        try:
            return self._keep(output, data)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise NameTooLongError from None
            raise unwritable(self.target, error) from None

    @abstractmethod
    def _keep(self, output: str, data: bytes) -> SpoolPlace | None: ...

    def close(self) -> None:  # noqa: B027 (a sink may have nothing to close)
        """Nothing more will be kept."""


class NameTooLongError(Exception):
    """The crop's name is too long for the file system of the target."""


class FolderSink(CropSink):
    """Each crop is a file beneath the target, written aside and renamed."""

    def __init__(self, target: Path):
        super().__init__(target)
        self._left_over: dict[Path, dict[str, list[Path]]] = {}

    def _keep(self, output: str, data: bytes) -> None:
        path = self.target / output
        if path.parent not in self._left_over:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._left_over[path.parent] = _parts_in(path.parent)
        # Of a call that was killed while it wrote this crop. Other crops are other processes' business.
        for part in self._left_over[path.parent].pop(path.name, []):
            part.unlink(missing_ok=True)
        write_atomically(path, data)


def _parts_in(folder: Path) -> dict[str, list[Path]]:
    parts: dict[str, list[Path]] = defaultdict(list)
    for path in folder.glob(".*.part"):
        if found := _PART.fullmatch(path.name):
            parts[found[1]].append(path)
    return dict(parts)


class CropMaker:
    """Cuts out the chosen face, keeps it, and says what it did."""

    def __init__(self, sink: CropSink, style: CropStyle):
        self._sink = sink
        self._style = style

    def from_faces(self, photograph: Photograph, faces: list[Face], output: str, failure: str | None = None) -> Record:
        """Make the crop of a photograph in which a detector looked for faces.

        Args:
            photograph: decoded.
            faces: all that the detector found in it.
            output: where the crop goes, relative to the target.
            failure: why the detector could not search it, if so.

        Raises:
            DataError: the target cannot be written or is full.
        """
        image = photograph.image
        record = Record(photograph.path, "skipped", faces=len(faces), reason=failure or "no face was found")
        if not faces:
            return self._at_centre(photograph, output, record)
        face = faces[choose_face(faces, image.shape[1], image.shape[0])]
        record = replace(
            record,
            box=_rounded(face.box),
            confidence=round(face.confidence, 5),
            reason=SECOND_SEARCH if face.second_search else None,
        )
        return self._aligned(photograph, face.points, output, record)

    def from_points(self, photograph: Photograph, points: NDArray[np.float64], output: str) -> Record:
        """Make the crop of a photograph whose five landmarks `[5, 2]` the user gave.

        Raises:
            DataError: the target cannot be written or is full.
        """
        return self._aligned(photograph, points, output, Record(photograph.path, "skipped", faces=1))

    def _aligned(self, photograph: Photograph, points: NDArray[np.float64], output: str, record: Record) -> Record:
        record = replace(record, points=[_rounded(point) for point in points])
        style = self._style
        try:
            crop = warp(photograph.image, points, style.size, style.template, style.margin)
        except ValueError as error:
            return self._at_centre(photograph, output, replace(record, reason=str(error)))
        return self._kept(crop, output, replace(record, outcome="aligned"))

    def _at_centre(self, photograph: Photograph, output: str, record: Record) -> Record:
        if self._style.no_face == "skip":
            return record
        crop = centre_crop(photograph.image, *crop_size(self._style.size, self._style.template))
        return self._kept(crop, output, replace(record, outcome="centre"))

    def _kept(self, crop: NDArray[np.uint8], output: str, record: Record) -> Record:
        data = encode_png_or_jpeg(crop, f".{self._style.format}", self._style.quality)
        try:
            return replace(record, spool=self._sink.keep(output, data), output=output)
        except NameTooLongError:
            return replace(record, outcome="skipped", reason="the name of its crop would be too long")


def _rounded(values: NDArray[np.float64]) -> list[float]:
    """To a thousandth of a pixel."""
    return [round(float(value), 3) for value in values]
