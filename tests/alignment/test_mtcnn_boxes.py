from __future__ import annotations

import numpy as np
import torch
import torchvision
from facenet_pytorch.models.utils import detect_face as theirs

from frtrain.alignment.mtcnn.boxes import (
    close_to_the_next_pixel,
    move_crops,
    pixels_of,
    pyramid_scales,
    squared,
    suppress,
    suppress_nested,
    suppress_within_levels,
    window_boxes,
)


def boxes(count: int = 200, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    corner = random.uniform(-20, 200, (count, 2))
    return np.concatenate([corner, corner + random.uniform(5, 80, (count, 2))], axis=1).astype(np.float32)


def scores(count: int = 200, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.linspace(0.5, 1, 60), count).astype(np.float32)  # with equal ones


def test_pyramid_begins_where_the_smallest_face_has_12_pixels_and_ends_where_the_image_has_fewer() -> None:
    scales = pyramid_scales(100, 300, 20, 0.5)
    assert scales == [0.6, 0.3, 0.15]
    assert pyramid_scales(19, 300, 20, 0.5) == []


def test_windows_are_those_of_facenet_pytorch() -> None:
    probabilities = torch.rand(1, 30, 40, generator=torch.Generator().manual_seed(0))
    expected, _ = theirs.generateBoundingBox(torch.zeros(1, 4, 30, 40), probabilities, 0.6 * 0.709, 0.9)
    y, x = np.nonzero(probabilities[0].numpy() >= np.float32(0.9))
    mine = window_boxes(x, y, np.full(len(x), 0.6 * 0.709, np.float32))
    assert np.array_equal(mine, expected[:, :4].numpy())


def test_suppression_within_levels_is_one_suppression_per_level() -> None:
    whole = np.floor(boxes())
    levels = np.random.default_rng(2).integers(0, 5, len(whole))
    mine = set(suppress_within_levels(whole, scores(), levels, 0.5).tolist())
    expected: set[int] = set()
    for level in range(5):
        members = np.flatnonzero(levels == level)
        expected |= set(members[suppress(whole[members], scores()[members], 0.5)].tolist())
    assert mine == expected
    assert suppress_within_levels(whole[:0], scores(0), levels[:0], 0.5).tolist() == []


def test_suppression_keeps_the_order_of_torchvision() -> None:
    expected = torchvision.ops.nms(torch.from_numpy(boxes()), torch.from_numpy(scores()), 0.3)
    assert suppress(boxes(), scores(), 0.3).tolist() == expected.tolist()


def test_nested_suppression_is_that_of_facenet_pytorch() -> None:
    expected = theirs.nms_numpy(boxes(), scores(), 0.7, "Min")
    assert suppress_nested(boxes(), scores(), 0.7).tolist() == expected.tolist()


def test_a_face_within_a_face_is_left_out() -> None:
    nested = np.array([[0, 0, 100, 100], [40, 40, 60, 60], [200, 0, 260, 60]], np.float32)
    assert suppress_nested(nested, np.array([0.9, 0.95, 0.8], np.float32), 0.7).tolist() == [1, 2]
    assert suppress(nested, np.array([0.9, 0.95, 0.8], np.float32), 0.7).tolist() == [1, 0, 2]


def test_moving_and_squaring_are_bit_for_bit_those_of_facenet_pytorch() -> None:
    shares = np.random.default_rng(3).normal(0, 0.1, (200, 4)).astype(np.float32)
    moved = theirs.bbreg(torch.from_numpy(boxes()), torch.from_numpy(shares)).clone()
    assert np.array_equal(move_crops(boxes(), shares), moved.numpy())
    assert np.array_equal(squared(move_crops(boxes(), shares)), theirs.rerec(moved).numpy())


def test_pixels_are_those_that_facenet_pytorch_cuts_out() -> None:
    top, bottom, left, right = theirs.pad(torch.from_numpy(boxes()), 150, 120)
    expected = np.stack([left - 1, top - 1, right, bottom], axis=1)
    assert np.array_equal(pixels_of(boxes(), np.full(200, 120), np.full(200, 150)), expected)


def test_a_corner_within_rounding_of_the_next_pixel_is_close_to_it_unless_it_is_cut_off() -> None:
    corners = np.array(
        [
            [10.5, 20.5, 60.5, 70.5],
            [10.5, 20.0001, 60.5, 70.5],
            [10.5, 20.5, 59.9999, 70.5],
            [-3.0, 0.5, 90.0, 300.00002],
        ],
        np.float32,
    )
    assert close_to_the_next_pixel(corners, np.full((4, 2), [200, 100])).tolist() == [False, True, True, True]
    assert close_to_the_next_pixel(corners, np.full((4, 2), [80, 61])).tolist() == [False, False, False, False]
