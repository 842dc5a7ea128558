"""The cascade: windows of an image pyramid, then two networks that look at ever fewer crops ever closer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frtrain.alignment.mtcnn.area import Tables
from frtrain.alignment.mtcnn.boxes import (
    Floats,
    Indices,
    close_to_the_next_pixel,
    move_crops,
    move_windows,
    pixels_of,
    place_points,
    pyramid_scales,
    squared,
    suppress,
    suppress_nested,
    suppress_within_levels,
    window_boxes,
)
from frtrain.alignment.mtcnn.networks import CropNetwork, ProposalNetwork, face_probability

ROUNDING_OF_PROBABILITIES = 1e-4
"""More than rounding in the networks changes a probability by (1e-6 was seen)."""

CHANGE_BY_A_PIXEL = 0.1
"""What a probability may change by when the crop moves by a pixel: so near to its threshold, it may end on the other side."""


@dataclass(frozen=True, eq=False)
class Found:
    """The faces of one image, the largest first.

    Attributes:
        boxes: `float32 [N, 4]`: x1, y1, x2, y2 in pixels; may reach beyond the image.
        confidences: `float32 [N]`
        points: `float32 [N, 5, 2]`
    """

    boxes: Floats
    confidences: Floats
    points: Floats


Referee = Callable[[NDArray[np.uint8], int], Found]
"""Searches one image `uint8 [H, W, 3]` for faces of at least so many pixels."""


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Boxes in all images of a call: `images [N]` their numbers, ascending; `boxes [N, 4]`; `scores [N]`.

    `close [N]` says whether a pixel of a box's crop was decided by less than rounding may change.
    """

    images: Indices
    boxes: Floats
    scores: Floats
    close: NDArray[np.bool_]

    def take(self, chosen: Indices) -> _Candidates:
        return _Candidates(self.images[chosen], self.boxes[chosen], self.scores[chosen], self.close[chosen])

    def per_image(self, choose: Callable[[slice], Indices]) -> Indices:
        """Indices of what `choose` picks (as indices within the slice) of each image's candidates."""
        edges = [0, *(np.flatnonzero(np.diff(self.images)) + 1).tolist(), len(self.images)]
        parts = [choose(slice(a, b)) + a for a, b in pairwise(edges) if b > a]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


class Cascade:
    """Finds faces as `facenet_pytorch.MTCNN.detect` does with one image, but in many images of any sizes at once.

    The pixels and the networks are on the device, boxes on the host; they meet three times in a call, however many
    images it has.

    Args:
        networks: PNet, RNet and ONet.
        thresholds: of the three networks, in [0, 1].
        factor: scale between two levels of the pyramid, in (0, 1).
        device: where the networks are.
        referee: searches an image once more in which a face was decided by less than rounding may change; None: nobody
            does. What it finds counts.
    """

    def __init__(
        self,
        networks: tuple[ProposalNetwork, CropNetwork, CropNetwork],
        thresholds: list[float],
        factor: float,
        device: torch.device,
        referee: Referee | None = None,
    ):
        self._referee = referee
        self._proposal, self._refinement, self._output = networks
        self._thresholds = thresholds
        self._factor = factor
        self._device = device
        # A probability of p is a difference of log(p / (1 - p)) between the logits. This is a little less, so that
        # probabilities need be computed, and compared exactly, of only those windows that may reach the threshold.
        share = min(max(thresholds[0], 1e-30), 1 - 1e-6)
        self._least_difference = math.log(share / (1 - share)) - 1e-3

    @torch.inference_mode()
    def search(self, images: list[NDArray[np.uint8]], min_face_size: int) -> list[Found]:
        """The faces of each image.

        Args:
            images: RGB `uint8 [H, W, 3]`.
            min_face_size: smallest face in pixels.
        """
        if not images:
            return []
        tables = Tables(images, self._device)
        undecided: set[int] = set()
        sizes = np.array([image.shape[:2] for image in images], np.int64)
        candidates, shares = self._look(
            self._propose(tables, min_face_size), tables, sizes, self._refinement, 24, self._thresholds[1], undecided
        )
        chosen = candidates.per_image(lambda part: suppress(candidates.boxes[part], candidates.scores[part], 0.7))
        candidates = candidates.take(chosen)
        moved = squared(move_crops(candidates.boxes, shares[chosen, :4]))
        candidates = replace(candidates, boxes=moved)

        candidates, shares = self._look(candidates, tables, sizes, self._output, 48, self._thresholds[2], undecided)
        points = place_points(candidates.boxes, shares[:, 4:])
        boxes, scores = move_crops(candidates.boxes, shares[:, :4]), candidates.scores
        found = []
        for number in range(len(images)):
            of_image = np.flatnonzero(candidates.images == number)
            of_image = of_image[suppress_nested(boxes[of_image], scores[of_image], 0.7)]
            width, height = (boxes[of_image, 2:] - boxes[of_image, :2]).astype(np.float64).T
            of_image = of_image[np.argsort(width * height)[::-1]]
            faces = Found(boxes[of_image], scores[of_image], points[of_image])
            if self._referee is not None and (number in undecided or candidates.close[of_image].any()):
                faces = self._referee(images[number], min_face_size)
            found.append(faces)
        return found

    def _propose(self, tables: Tables, min_face_size: int) -> _Candidates:
        """First network, on every level of every image."""
        outputs: list[Tensor] = []
        shapes, scales, levels, first_images = [], [], [], []
        order: list[int] = []
        for group in tables.groups:
            of_group = pyramid_scales(group.height, group.width, min_face_size, self._factor)
            level_sizes = [(int(group.height * scale + 1), int(group.width * scale + 1)) for scale in of_group]
            for number, pixels in enumerate(tables.levels(group, level_sizes)):
                output = self._proposal(pixels)
                outputs.append(output.reshape(-1, 6))
                shapes.append(output.shape[:3])
                scales.append(of_group[number])
                levels.append(number)
                first_images.append(len(order))
            order += group.images
        if not outputs:
            return _candidates(np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty(0, np.float32))
        windows = torch.cat(outputs)
        chosen = (windows[:, 1] - windows[:, 0] >= self._least_difference).nonzero()[:, 0]
        values = windows[chosen]
        scores = face_probability(values).cpu().numpy()
        reach = scores >= np.float32(self._thresholds[0])
        place, shares, scores = chosen.cpu().numpy()[reach], values[:, 2:].cpu().numpy()[reach], scores[reach]

        count, height, width = np.array(shapes, np.int64).T
        ends = np.cumsum(count * height * width)
        map_number = np.searchsorted(ends, place, side="right")
        place = place - (ends - count * height * width)[map_number]
        height, width = height[map_number], width[map_number]
        image = np.array(order)[np.array(first_images)[map_number] + place // (height * width)]
        y, x = place // width % height, place % width
        boxes = window_boxes(x, y, np.array(scales, np.float32)[map_number])
        level = np.array(levels)[map_number]

        by_image = np.argsort(image, kind="stable")
        candidates = _candidates(image, boxes, scores).take(by_image)
        level, shares = level[by_image], shares[by_image]

        def choose(part: slice) -> Indices:
            boxes, scores = candidates.boxes[part], candidates.scores[part]
            in_level = suppress_within_levels(boxes, scores, level[part], 0.5)
            return in_level[suppress(boxes[in_level], scores[in_level], 0.7)]

        chosen_of_all = candidates.per_image(choose)
        kept = candidates.take(chosen_of_all)
        return replace(kept, boxes=squared(move_windows(kept.boxes, shares[chosen_of_all])))

    def _look(
        self,
        candidates: _Candidates,
        tables: Tables,
        sizes: Indices,
        network: CropNetwork,
        crop_size: int,
        threshold: float,
        undecided: set[int],
    ) -> tuple[_Candidates, Floats]:
        """Candidates in which a network sees a face, with its probabilities, and its other outputs `[N, 4 or 14]`.

        Images in which a candidate might have passed or failed by rounding are added to `undecided`.
        """
        corners = pixels_of(candidates.boxes, *sizes[candidates.images].T)
        inside = np.flatnonzero((corners[:, 2:] > corners[:, :2]).all(1))
        candidates, corners = candidates.take(inside), corners[inside]
        if len(corners) == 0:
            return candidates, np.empty((0, 14), np.float32)
        outputs = network(tables.crops(candidates.images, corners, crop_size)).cpu().numpy()
        near = close_to_the_next_pixel(candidates.boxes, sizes[candidates.images])
        distance = np.abs(outputs[:, 0] - threshold)
        doubtful = (distance < ROUNDING_OF_PROBABILITIES) | (near & (distance < CHANGE_BY_A_PIXEL))
        undecided.update(candidates.images[doubtful].tolist())
        passed = np.flatnonzero(outputs[:, 0] > np.float32(threshold))
        scores, close = outputs[passed, 0].copy(), (candidates.close | near)[passed]
        return replace(candidates.take(passed), scores=scores, close=close), outputs[passed, 1:]


def _candidates(images: Indices, boxes: Floats, scores: Floats) -> _Candidates:
    return _Candidates(images, boxes, scores, np.zeros(len(images), np.bool_))
