from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path

import cv2
import facenet_pytorch
import numpy as np
import pytest
import torch
from PIL import Image

from frtrain.alignment.detector import DETECTORS, MTCNN, Face
from frtrain.alignment.mtcnn import boxes, cascade
from frtrain.alignment.mtcnn.cascade import Cascade, Found
from frtrain.alignment.mtcnn.networks import load_networks
from frtrain.alignment.mtcnn.referee import FacenetReferee
from frtrain.data.images import read_image
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
    "settle_rounding": True,
}
CPU = torch.device("cpu")


def decode(archive: tarfile.TarFile, member: tarfile.TarInfo) -> np.ndarray:
    file = archive.extractfile(member)
    assert file is not None
    return np.array(Image.open(io.BytesIO(file.read())).convert("RGB"))


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


def compare_with_facenet_pytorch(images: list[np.ndarray], found: list[list[Face]]) -> int:
    """The number of faces, all of which are the same."""
    theirs = facenet_pytorch.MTCNN(keep_all=True)
    count = 0
    for image, faces in zip(images, found, strict=True):
        boxes, confidences, points = theirs.detect(image, landmarks=True)
        assert len(faces) == (0 if boxes is None else len(boxes))
        count += len(faces)
        for index, face in enumerate(faces):
            np.testing.assert_allclose(face.box, boxes[index].astype(float), atol=0.01)
            np.testing.assert_allclose(face.points, points[index].astype(float), atol=0.01)
            assert face.confidence == pytest.approx(float(confidences[index]), abs=1e-4)
    return count


def test_faces_are_those_of_facenet_pytorch_one_by_one(mixed: list[np.ndarray]) -> None:
    assert compare_with_facenet_pytorch(mixed, build().detect(mixed)) >= 4


def test_faces_of_images_of_odd_sizes_in_one_call_are_those_of_facenet_pytorch(photographs: list[np.ndarray]) -> None:
    first, second, third = photographs
    images = [first[:151, 13:], second[20:, :177], third, np.hstack([first, second[:, 7:]]), second[:33, :190]]
    images.append(np.random.default_rng(0).integers(0, 256, (57, 91, 3), dtype=np.uint8))
    assert compare_with_facenet_pytorch(images, build().detect(images)) >= 4


def test_where_rounding_may_decide_facenet_pytorch_is_asked(
    mixed: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    consult = FacenetReferee.__call__

    def noted(self: FacenetReferee, image: np.ndarray, min_face_size: int) -> Found:
        asked.append(min_face_size)
        return consult(self, image, min_face_size)

    monkeypatch.setattr(FacenetReferee, "__call__", noted)
    monkeypatch.setattr(boxes, "ROUNDING_OF_CORNERS", 0.0)
    monkeypatch.setattr(cascade, "ROUNDING_OF_PROBABILITIES", 0.0)
    compare_with_facenet_pytorch(mixed, build().detect(mixed))
    assert asked == []
    monkeypatch.setattr(boxes, "ROUNDING_OF_CORNERS", 1.0)  # everything may be decided by rounding
    found = build().detect(mixed)
    assert asked == [20, 20, 20]  # not for the image without a face
    theirs = facenet_pytorch.MTCNN(keep_all=True)
    for image, faces in zip(mixed, found, strict=True):
        expected, _, points = theirs.detect(image, landmarks=True)
        for index, face in enumerate(faces):
            assert np.array_equal(face.box, expected[index].astype(float))  # to the last bit
            assert np.array_equal(face.points, points[index].astype(float))
    build(settle_rounding=False).detect(mixed)
    assert len(asked) == 3


def test_images_searched_together_have_the_faces_of_those_searched_alone(mixed: list[np.ndarray]) -> None:
    images = [*mixed, mixed[0][:120], mixed[0][:30, :30]]
    plain = Cascade(load_networks(CPU), [0.6, 0.7, 0.7], 0.709, CPU)
    for together, image in zip(plain.search(images, 20), images, strict=True):
        [alone] = plain.search([image], 20)
        np.testing.assert_allclose(together.boxes, alone.boxes, atol=0.01)
        np.testing.assert_allclose(together.points, alone.points, atol=0.01)


def test_faces_are_the_same_to_the_last_bit_whatever_else_is_in_the_call(mixed: list[np.ndarray]) -> None:
    detector = build()
    for together, image in zip(detector.detect(mixed), mixed, strict=True):
        [alone] = detector.detect([image])
        assert [face.points.tolist() for face in together] == [face.points.tolist() for face in alone]


@pytest.mark.slow
def test_faces_of_real_photographs_are_those_of_facenet_pytorch(shared: Path) -> None:
    images = [read_image(path) for path in sorted((shared / "photos").glob("*.jpg"))]
    with tarfile.open(shared / "lfw" / "lfw-deepfunneled.tar") as archive:
        members = (member for member in archive if member.name.endswith("_0001.jpg"))
        images += [decode(archive, member) for member in islice(members, 12)]
    plain = build()
    assert compare_with_facenet_pytorch(images, plain.detect(images)) >= 29


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


def test_min_side_must_not_be_above_max_side() -> None:
    with pytest.raises(ConfigError, match="min_side=90 must not be above max_side=80"):
        build(min_side=90, max_side=80)


def reduced(photograph: np.ndarray, times: int) -> np.ndarray:
    side = len(photograph) // times
    return np.asarray(cv2.resize(photograph, (side, side), interpolation=cv2.INTER_AREA))


@pytest.fixture(scope="module")
def small() -> tuple[np.ndarray, np.ndarray]:
    """A photograph of a face whose eyes are 15 pixels apart, and its true landmarks."""
    pixels, landmarks = render_photograph(draw_person(1, 1), draw_conditions(1, 1, 0), 360)
    return reduced(pixels, 4), (landmarks + 0.5) / 4 - 0.5


def test_a_closer_look_changes_the_points_of_small_faces_and_nothing_else(small: tuple[np.ndarray, np.ndarray]) -> None:
    [plain] = build().detect([small[0]])[0]
    [closer] = build(closer_look_below=40).detect([small[0]])[0]
    [not_small] = build(closer_look_below=5).detect([small[0]])[0]
    assert closer.closer_look
    assert not plain.closer_look
    assert not not_small.closer_look
    assert np.array_equal(closer.box, plain.box)
    assert closer.confidence == plain.confidence
    assert 0 < np.abs(closer.points - plain.points).max() < 4
    assert np.array_equal(not_small.points, plain.points)


def test_closer_looks_bring_the_points_nearer_to_the_truth() -> None:
    plain, closer = build(), build(closer_look_below=40)
    errors: dict[MTCNN, list[float]] = {plain: [], closer: []}
    for number in range(6):
        pixels, landmarks = render_photograph(draw_person(1, number), draw_conditions(1, number, 0), 250)
        truth = (landmarks + 0.5) / 5 - 0.5
        for detector, of_detector in errors.items():
            [face] = detector.detect([reduced(pixels, 5)])[0]
            of_detector.append(float(np.linalg.norm(face.points - truth, axis=1).mean()))
    assert np.mean(errors[closer]) < 0.8 * np.mean(errors[plain])


def test_points_of_reduced_images_come_from_the_originals(photographs: list[np.ndarray]) -> None:
    settings = ({}, {"max_side": 100}, {"max_side": 100, "closer_look_reduction": 6})
    detectors = [build(**changes) for changes in settings]
    distances: list[list[float]] = [[], []]
    for photograph in photographs:
        enlarged = np.asarray(cv2.resize(photograph, (600, 600), interpolation=cv2.INTER_CUBIC))
        [full], [vague], [closer] = (detector.detect([enlarged])[0] for detector in detectors)
        assert closer.closer_look
        assert not vague.closer_look
        for of_kind, face in zip(distances, (vague, closer), strict=True):
            of_kind.append(float(np.linalg.norm(face.points - full.points, axis=1).mean()))
    assert np.mean(distances[1]) < 0.6 * np.mean(distances[0])


def test_images_reduced_less_keep_their_points(photographs: list[np.ndarray]) -> None:
    [face] = build(max_side=100, closer_look_reduction=2.1).detect([photographs[1]])[0]  # 2 times
    assert not face.closer_look


def test_image_below_min_side_is_searched_enlarged_and_gives_points_in_its_own_pixels(
    photographs: list[np.ndarray],
) -> None:
    tiny = reduced(photographs[1], 10)
    assert build().detect([tiny]) == [[]]
    [face] = build(min_side=100).detect([tiny])[0]
    plain = build().detect([photographs[1]])[0][0]
    assert np.abs(face.points - ((plain.points + 0.5) / 10 - 0.5)).max() < 1.5
