"""Faces and their five landmarks in photographs: the contract of a detector, and MTCNN."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.registry import Registry
from frtrain.schema import Fraction, FractionBelowOne, NonNegative, PositiveInt


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in an image.

    Attributes:
        box: `float64 [4]`: x1, y1, x2, y2 in pixels; may reach beyond the image.
        points: `float64 [5, 2]`: (x, y) of left eye, right eye (as seen), nose tip, left and right mouth corner.
        confidence: the detector's probability that this is a face, in [0, 1].
        second_search: whether it was found only by the detector's second, more lenient search.
    """

    box: NDArray[np.float64]
    points: NDArray[np.float64]
    confidence: float
    second_search: bool = False


class Detector(Protocol):
    """Finds faces. Knows nothing of files, crops or which face is wanted."""

    def detect(self, images: list[NDArray[np.uint8]]) -> list[list[Face]]:
        """All faces of each image.

        Args:
            images: RGB `uint8 [H, W, 3]`, of any sizes in one call. More images of a call may be faster than fewer, never
                different: the faces of an image do not depend on what else is in the call.

        Returns:
            One list per image, in the order of the images; empty where no face was found.
        """
        ...


DETECTORS: Registry[Detector] = Registry("detector")


@DETECTORS.register("mtcnn")
class MTCNN:
    """Multi-task cascaded networks (Zhang et al., IEEE SPL 2016), as packaged with their weights by facenet-pytorch.

    On an image whose long side is at most `max_side` the faces are those of `facenet_pytorch.MTCNN.detect`. Where that
    finds none, a second search with lower thresholds and a border around the image follows: the cascade misses faces
    that the picture's edge cuts, and those are what is mostly left.

    Args:
        min_face_size: smallest face in pixels of the searched image. Smaller is slower, with the inverse square.
        thresholds: of the proposal, refinement and output network, in [0, 1].
        factor: scale between two levels of the image pyramid, in (0, 1).
        max_side: images with a longer side are searched reduced to it, which bounds time and memory. A face must then
            have `min_face_size` pixels in the reduced image. Boxes and points are in pixels of the original.
        retry_thresholds: thresholds of the second search; None: there is none.
        retry_margin: width of the border of the second search, as a share of the image's short side.
        device: where the networks run.

    Raises:
        ValueError: not three thresholds, or a factor of 0.
    """

    def __init__(
        self,
        min_face_size: PositiveInt,
        thresholds: list[Fraction],
        factor: FractionBelowOne,
        max_side: PositiveInt,
        retry_thresholds: list[Fraction] | None,
        retry_margin: NonNegative,
        device: torch.device,
    ):
        for key, values in {"thresholds": thresholds, "retry_thresholds": retry_thresholds}.items():
            if values is not None and len(values) != 3:
                raise ValueError(f"{key} must be three numbers, one per network, but is {values}")
        if factor == 0:
            raise ValueError("factor must be greater than 0")
        self._min_face_size = min_face_size
        self._max_side = max_side
        self._retry_margin = retry_margin
        self._cascade = _cascade(min_face_size, thresholds, factor, device)
        self._lenient = _cascade(min_face_size, retry_thresholds, factor, device) if retry_thresholds else None

    def detect(self, images: list[NDArray[np.uint8]]) -> list[list[Face]]:
        """See `Detector.detect`."""
        if not images:
            return []
        found = self._search(self._cascade, images)
        without = [index for index, faces in enumerate(found) if not faces]
        if self._lenient is not None and without:
            second = self._search(self._lenient, [images[index] for index in without], self._retry_margin)
            for index, faces in zip(without, second, strict=True):
                found[index] = [replace(face, second_search=True) for face in faces]
        return found

    def _search(self, cascade: Any, images: list[NDArray[np.uint8]], margin: float = 0.0) -> list[list[Face]]:
        """The faces of images with a black border of `margin` times their short side, in pixels of the images."""
        if len({image.shape for image in images}) > 1:
            return [self._search(cascade, [image], margin)[0] for image in images]
        height, width = images[0].shape[:2]
        scale = min(1.0, self._max_side / (max(height, width) + 2 * margin * min(height, width)))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        border = round(margin * min(size))
        if min(size) + 2 * border < self._min_face_size:
            return [[] for _ in images]  # facenet-pytorch raises where its image pyramid has no level
        if scale < 1:
            images = [np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8) for image in images]
        searched = np.pad(np.stack(images), ((0, 0), (border, border), (border, border), (0, 0)))
        # The results are object arrays whose rank depends on whether all images have equally many faces; an image
        # without a face has None. Only iterating over images and converting each one is safe.
        boxes, confidences, points = cascade.detect(searched, landmarks=True)
        to_original = np.array([width / size[0], height / size[1]])
        return [
            [] if of_image is None else _faces(of_image, confidences[index], points[index], to_original, border)
            for index, of_image in enumerate(boxes)
        ]


def _cascade(min_face_size: int, thresholds: list[float], factor: float, device: torch.device) -> Any:
    import facenet_pytorch  # takes seconds, and only this detector needs it

    return facenet_pytorch.MTCNN(
        keep_all=True, min_face_size=min_face_size, thresholds=thresholds, factor=factor, device=device
    ).eval()


def _faces(
    boxes: object, confidences: object, points: object, to_original: NDArray[np.float64], border: int
) -> list[Face]:
    def moved(searched: object, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        # Resizing keeps the corner of the first pixel in place, not its centre: hence the halves.
        result: NDArray[np.float64] = (np.asarray(searched, dtype=np.float64) - border + 0.5) * scale - 0.5
        return result

    return [
        Face(box=box, points=five, confidence=float(confidence))
        for box, five, confidence in zip(
            moved(boxes, np.tile(to_original, 2)),
            moved(points, to_original),
            np.asarray(confidences, dtype=np.float64),
            strict=True,
        )
    ]
