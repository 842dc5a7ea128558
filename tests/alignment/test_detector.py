from __future__ import annotations

import facenet_pytorch
import numpy as np
import pytest
import torch

from frtrain.alignment.detector import DETECTORS, MTCNN
from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import render_photograph
from frtrain.errors import ConfigError

SPEC = {
    "name": "mtcnn",
    "min_face_size": 20,
    "thresholds": [0.6, 0.7, 0.7],
    "factor": 0.709,
    "max_side": 1280,
    "min_side": None,
    "retry_thresholds": None,
    "retry_margin": 0.5,
    "closer_look_below": None,
    "closer_look_reduction": None,
}
CPU = torch.device("cpu")


def build(**changes: object) -> MTCNN:
    detector = DETECTORS.build({**SPEC, **changes}, device=CPU)
    assert isinstance(detector, MTCNN)
    return detector


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [render_photograph(draw_person(1, n), draw_conditions(1, n, 0), 200)[0] for n in range(3)]


@pytest.fixture(scope="module")
def mixed(photographs: list[np.ndarray]) -> list[np.ndarray]:
    """Photographs of one size with one, no and several faces."""
    four_faces = np.tile(photographs[0][::2, ::2], (2, 2, 1))
    return [photographs[1], np.full_like(photographs[0], 128), four_faces, photographs[2]]


def test_faces_are_those_of_facenet_pytorch_one_by_one(mixed: list[np.ndarray]) -> None:
    theirs = facenet_pytorch.MTCNN(keep_all=True)
    for image, faces in zip(mixed, build().detect(mixed), strict=True):
        boxes, confidences, points = theirs.detect(image, landmarks=True)
        assert len(faces) == (0 if boxes is None else len(boxes))
        for index, face in enumerate(faces):
            np.testing.assert_allclose(face.box, boxes[index].astype(float), atol=0.01)
            np.testing.assert_allclose(face.points, points[index].astype(float), atol=0.01)
            assert face.confidence == pytest.approx(float(confidences[index]), abs=1e-4)


def test_photographs_with_no_one_and_several_faces_share_a_batch(mixed: list[np.ndarray]) -> None:
    counts = [len(faces) for faces in build().detect(mixed)]
    assert counts[0] == counts[3] == 1
    assert counts[1] == 0
    assert counts[2] > 1


def test_landmarks_are_where_the_face_was_drawn() -> None:
    pixels, landmarks = render_photograph(draw_person(1, 1), draw_conditions(1, 1, 0), 250)
    found = build().detect([pixels])[0][0].points
    eye_distance = np.linalg.norm(landmarks[1] - landmarks[0])
    assert np.linalg.norm(found - landmarks, axis=1).mean() < 0.15 * eye_distance


@pytest.mark.parametrize("size", [(1, 1), (19, 300), (12, 12)])
def test_image_smaller_than_the_smallest_face_has_no_face(size: tuple[int, int]) -> None:
    assert build().detect([np.zeros((*size, 3), np.uint8)] * 2) == [[], []]


def test_no_images_have_no_faces() -> None:
    assert build().detect([]) == []


def test_image_above_max_side_gives_points_in_its_own_pixels(photographs: list[np.ndarray]) -> None:
    enlarged = photographs[1].repeat(3, axis=0).repeat(3, axis=1)
    reduced = build(max_side=200).detect([enlarged])[0][0]
    plain = build().detect([photographs[1]])[0][0]
    np.testing.assert_allclose(reduced.points, plain.points * 3 + 1, atol=0.1)
    np.testing.assert_allclose(reduced.box, plain.box * 3 + 1, atol=0.1)


def test_second_search_finds_what_the_first_did_not_and_says_so(photographs: list[np.ndarray]) -> None:
    strict = [0.6, 0.7, 0.99999999]
    plain = build().detect([photographs[1]])[0][0]
    assert build(thresholds=strict).detect([photographs[1]]) == [[]]
    second = build(thresholds=strict, retry_thresholds=[0.6, 0.7, 0.7]).detect([photographs[1]])[0][0]
    assert second.second_search
    assert not plain.second_search
    assert np.abs(second.points - plain.points).max() < 6


def test_second_search_of_a_large_image_gives_points_in_its_own_pixels(photographs: list[np.ndarray]) -> None:
    enlarged = photographs[1].repeat(4, axis=0).repeat(4, axis=1)
    detector = build(thresholds=[0.6, 0.7, 0.99999999], retry_thresholds=[0.6, 0.7, 0.7], max_side=400)
    second = detector.detect([enlarged])[0][0]
    plain = build().detect([photographs[1]])[0][0]
    assert second.second_search
    assert np.abs(second.points - plain.points * 4).max() < 24


def test_thresholds_must_be_three() -> None:
    with pytest.raises(ConfigError, match="thresholds must be three"):
        build(thresholds=[0.6, 0.7])
