"""From a photograph and its faces to a crop on disk and the record of it."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.alignment.choice import choose_face
from frtrain.alignment.detector import Face
from frtrain.alignment.reading import Photograph
from frtrain.alignment.report import Record, unwritable
from frtrain.alignment.transform import warp
from frtrain.data.images import write_png_or_jpeg


@dataclass(frozen=True)
class CropStyle:
    """What a crop looks like.

    Attributes:
        size: height and width in pixels.
        template: where the landmarks lie (`frtrain.alignment.transform.TEMPLATES`).
        format: file format and extension.
        quality: of a JPEG, 1 to 100.
        no_face: of a photograph without a found face, `skip`: make no crop; `centre`: cut out its centre square.
    """

    size: int
    template: str
    format: Literal["jpg", "png"]
    quality: int
    no_face: Literal["skip", "centre"]


def centre_crop(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The largest centred square of `uint8 [H, W, 3]`, resized to `[size, size, 3]`."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=interpolation), dtype=np.uint8)


class CropWriter:
    """Cuts out the chosen face, writes it beneath `target`, and says what it did."""

    def __init__(self, target: Path, style: CropStyle):
        self._target = target
        self._style = style
        self._folders: set[Path] = set()

    def write(self, photograph: Photograph, faces: list[Face], output: str, failure: str | None = None) -> Record:
        """Write the crop of a photograph.

        Args:
            photograph: decoded.
            faces: all that the detector found in it.
            output: where the crop goes, relative to the target.
            failure: why the detector could not search it, if so.

        Raises:
            DataError: the target cannot be written or is full. No half-written crop is left.
        """
        image = photograph.image
        record = Record(photograph.path, "skipped", faces=len(faces), reason=failure or "no face was found")
        crop = None
        if faces:
            face = faces[choose_face(faces, image.shape[1], image.shape[0])]
            record = replace(
                record,
                outcome="aligned",
                box=_rounded(face.box),
                points=[_rounded(point) for point in face.points],
                confidence=round(face.confidence, 5),
                reason="found by the second search" if face.second_search else None,
            )
            try:
                crop = warp(image, face.points, self._style.size, self._style.template)
            except ValueError as error:
                record = replace(record, outcome="skipped", reason=str(error))
        if crop is None and self._style.no_face == "centre":
            crop = centre_crop(image, self._style.size)
            record = replace(record, outcome="centre")
        if crop is None:
            return record
        try:
            self._save(self._target / output, crop)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise unwritable(self._target, error) from None
            return replace(record, outcome="skipped", reason="the name of its crop would be too long")
        return replace(record, output=output)

    def _save(self, path: Path, crop: NDArray[np.uint8]) -> None:
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            for left_over in path.parent.glob(".*.part"):  # of a call that was killed while it wrote
                left_over.unlink()
            self._folders.add(path.parent)
        write_png_or_jpeg(path, crop, self._style.quality)


def _rounded(values: NDArray[np.float64]) -> list[float]:
    """To a thousandth of a pixel."""
    return [round(float(value), 3) for value in values]
