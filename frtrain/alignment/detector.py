"""Faces and their five landmarks in photographs: the contract of a detector, and MTCNN."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.alignment.mtcnn.cascade import Cascade, Found
from frtrain.alignment.mtcnn.closer_look import FACE_SIDE, LARGEST_MOVE, look_closer
from frtrain.alignment.mtcnn.networks import load_networks
from frtrain.alignment.mtcnn.referee import FacenetReferee
from frtrain.alignment.mtcnn.streams import map_in_streams
from frtrain.alignment.mtcnn.views import View, whole
from frtrain.registry import Registry
from frtrain.schema import AtLeastOne, Fraction, FractionBelowOne, NonNegative, Positive, PositiveInt


@dataclass(frozen=True, eq=False)
class Face:
    """One face found in an image.

    Attributes:
        box: `float64 [4]`: x1, y1, x2, y2 in pixels; may reach beyond the image.
        points: `float64 [5, 2]`: (x, y) of left eye, right eye (as seen), nose tip, left and right mouth corner.
        confidence: the detector's probability that this is a face, in [0, 1].
        second_search: whether it was found only by the detector's second, more lenient search.
        closer_look: whether the points come from a closer look at the face after it was found.
    """

    box: NDArray[np.float64]
    points: NDArray[np.float64]
    confidence: float
    second_search: bool = False
    closer_look: bool = False


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
    """Multi-task cascaded networks (Zhang et al., IEEE SPL 2016), with the weights that facenet-pytorch packages.

    The faces, their boxes, points and confidences are those of `facenet_pytorch.MTCNN.detect` on the same pixels, one
    image at a time, up to the rounding of float32, with four exceptions, each of which a parameter can turn off:
    - where no face was found, a second search with lower thresholds and a border around the image follows: the cascade
      misses faces that the picture's edge cuts, and those are what is mostly left (`retry_thresholds`);
    - an image with a side beyond `max_side`, or, if it is set, with a short side below `min_side`, is searched at that
      size;
    - the points, and they alone, of a face whose eyes are less than `closer_look_below` pixels apart in the searched
      image are taken from an enlargement of its surroundings, if it is found there again within a few pixels;
    - so are those of a face in an image that was reduced `closer_look_reduction` times or more, from the original.

    On a CPU each image is searched by itself in one of `torch.get_num_threads()` single-threaded streams; elsewhere all
    images of a call are searched together.

    Args:
        min_face_size: smallest face in pixels of the searched image. Smaller is slower, with the inverse square.
        thresholds: of the proposal, refinement and output network, in [0, 1].
        factor: scale between two levels of the image pyramid, in (0, 1).
        max_side: images with a longer side are searched reduced to it, which bounds time and memory. A face must then
            have `min_face_size` pixels in the reduced image. Boxes and points are in pixels of the original.
        min_side: images with a smaller short side are searched enlarged to it; None: none are.
        retry_thresholds: thresholds of the second search; None: there is none.
        retry_margin: width of the border of the second search, as a share of the image's short side.
        closer_look_below: pixels between the eyes in the searched image; None: no face is enlarged.
        closer_look_reduction: of how many times at least; None: the points of reduced images stay as they were found.
        settle_rounding: whether images in which the rounding of float32 may have decided where a crop begins are searched
            once more by facenet-pytorch itself, which counts then. On LFW that is one in 60.
        device: where the networks run.

    Raises:
        ValueError: not three thresholds, a factor of 0, or a `min_side` above `max_side`.
    """

    def __init__(
        self,
        min_face_size: PositiveInt,
        thresholds: list[Fraction],
        factor: FractionBelowOne,
        max_side: PositiveInt,
        min_side: PositiveInt | None,
        retry_thresholds: list[Fraction] | None,
        retry_margin: NonNegative,
        closer_look_below: Positive | None,
        closer_look_reduction: AtLeastOne | None,
        settle_rounding: bool,
        device: torch.device,
    ):
        for key, values in {"thresholds": thresholds, "retry_thresholds": retry_thresholds}.items():
            if values is not None and len(values) != 3:
                raise ValueError(f"{key} must be three numbers, one per network, but is {values}")
        if factor == 0:
            raise ValueError("factor must be greater than 0")
        if min_side is not None and min_side > max_side:
            raise ValueError(f"min_side={min_side} must not be above max_side={max_side}")
        self._min_face_size = min_face_size
        self._max_side = max_side
        self._min_side = min_side
        self._retry_margin = retry_margin
        self._closer_look_below = closer_look_below
        self._closer_look_reduction = closer_look_reduction
        self._device = device
        networks = load_networks(device)
        referee = FacenetReferee(thresholds, factor, device) if settle_rounding else None
        self._cascade = Cascade(networks, thresholds, factor, device, referee)
        self._lenient = Cascade(networks, retry_thresholds, factor, device) if retry_thresholds else None

    def detect(self, images: list[NDArray[np.uint8]]) -> list[list[Face]]:
        """See `Detector.detect`."""
        if self._device.type == "cpu":
            return [faces for [faces] in map_in_streams(self._detect, [[image] for image in images])]
        return self._detect(images)

    def _detect(self, images: list[NDArray[np.uint8]]) -> list[list[Face]]:
        """The faces of images that are searched together."""
        found = self._search(self._cascade, images)
        without = [index for index, faces in enumerate(found) if not faces]
        if self._lenient is not None and without:
            missed = [images[index] for index in without]
            second = self._search(self._lenient, missed, self._retry_margin)
            for index, faces in zip(without, second, strict=True):
                found[index] = [replace(face, second_search=True) for face in faces]
        return found

    def _search(self, cascade: Cascade, images: list[NDArray[np.uint8]], margin: float = 0.0) -> list[list[Face]]:
        """The faces of images with a black border of `margin` times their short side, in pixels of the images."""
        views = [whole(image, self._max_side, self._min_side, margin) for image in images]
        found = cascade.search([view.pixels for view in views], self._min_face_size)
        faces = [_faces(of_image, view) for of_image, view in zip(found, views, strict=True)]
        vague = [
            (image, number)
            for image, (of_image, view) in enumerate(zip(faces, views, strict=True))
            for number, face in enumerate(of_image)
            if self._is_vague(face, view)
        ]
        points = look_closer(cascade, [images[i] for i, _ in vague], [faces[i][n].box for i, n in vague])
        for (image, number), five in zip(vague, points, strict=True):
            face, scale = faces[image][number], views[image].scale.mean()
            if five is not None and np.linalg.norm(five - face.points, axis=1).mean() <= LARGEST_MOVE * scale:
                faces[image][number] = replace(face, points=five, closer_look=True)
        return faces

    def _is_vague(self, face: Face, view: View) -> bool:
        """Whether a closer look at the face is wanted, and would show it larger than it was searched."""
        scale = float(view.scale.mean())
        if (face.box[2:] - face.box[:2]).max() >= FACE_SIDE * scale:
            return False
        if self._closer_look_reduction is not None and scale > 1 and scale >= self._closer_look_reduction:
            return True
        eye_distance = float(np.linalg.norm(face.points[1] - face.points[0])) / scale
        return self._closer_look_below is not None and eye_distance < self._closer_look_below


def _faces(found: Found, view: View) -> list[Face]:
    """Faces in pixels of the photograph."""
    boxes = view.to_photograph(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    points = view.to_photograph(found.points)
    return [
        Face(box=box, points=five, confidence=float(confidence))
        for box, five, confidence in zip(boxes, points, found.confidences, strict=True)
    ]
