from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from frtrain.alignment.transform import TEMPLATES, similarity_transform, warp
from frtrain.data.images import read_image
from frtrain.data.synthetic.conditions import draw_conditions
from frtrain.data.synthetic.identity import draw_person
from frtrain.data.synthetic.photograph import render_crop, render_photograph, write_photographs


def photograph(identity: int, sample: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return render_photograph(draw_person(seed, identity), draw_conditions(seed, identity, sample))


def crop(identity: int, sample: int = 0, seed: int = 0) -> np.ndarray:
    return render_crop(draw_person(seed, identity), draw_conditions(seed, identity, sample))


def standardised_grey(images: list[np.ndarray]) -> np.ndarray:
    grey = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).ravel() for image in images]).astype(np.float64)
    grey -= grey.mean(axis=1, keepdims=True)
    return grey / np.linalg.norm(grey, axis=1, keepdims=True)


def test_photograph_is_square_rgb_with_five_landmarks():
    pixels, landmarks = photograph(3)
    assert (pixels.shape, pixels.dtype) == ((250, 250, 3), np.uint8)
    assert (landmarks.shape, landmarks.dtype) == ((5, 2), np.float32)


def test_another_process_with_other_thread_counts_draws_the_same_bytes():
    program = (
        "import cv2, hashlib, sys; cv2.setNumThreads(3);"
        "from frtrain.data.synthetic.photograph import *;"
        "faces = [render_crop(draw_person(5, i), draw_conditions(5, i, 2)) for i in range(6)];"
        "print(hashlib.sha256(b''.join(face.tobytes() for face in faces)).hexdigest())"
    )
    repository = Path(__file__).resolve().parents[3]
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=repository
    ).stdout.strip()
    backwards = [crop(identity, 2, seed=5) for identity in reversed(range(6))][::-1]
    assert hashlib.sha256(b"".join(face.tobytes() for face in backwards)).hexdigest() == other


@pytest.mark.parametrize("change", [{"identity": 8}, {"sample": 1}, {"seed": 1}])
def test_identity_sample_and_seed_each_change_the_picture(change: dict[str, int]):
    numbers = {"identity": 7, "sample": 0, "seed": 0}
    assert not np.array_equal(crop(**numbers), crop(**(numbers | change)))


def test_landmarks_lie_in_the_photograph_with_left_on_the_left():
    landmarks = np.stack([photograph(identity)[1] for identity in range(20)])
    assert ((landmarks >= 0) & (landmarks < 250)).all()
    assert (landmarks[:, 0, 0] < landmarks[:, 1, 0]).all()
    assert (landmarks[:, 3, 0] < landmarks[:, 4, 0]).all()
    assert (landmarks[:, :2, 1].mean(axis=1) < landmarks[:, 3:, 1].mean(axis=1)).all()


def test_crop_shows_what_aligning_the_photograph_would_show():
    """The backgrounds differ; the face, the middle of the crop, must coincide."""
    agreement = []
    for identity in range(12):
        person, conditions = draw_person(0, identity), draw_conditions(0, identity, 0)
        pixels, landmarks = render_photograph(person, conditions)
        units = pixels.shape[0] * conditions.optics.scale
        aligned = warp(pixels, landmarks + units * np.array(conditions.landmark_error, np.float32))
        faces = [image[40:100, 32:80] for image in (aligned, render_crop(person, conditions))]
        first, second = standardised_grey(faces)
        agreement.append(first @ second)
    assert np.median(agreement) > 0.95


def test_landmarks_of_a_frontal_face_are_near_the_template():
    distances = []
    for identity in range(60):
        conditions = draw_conditions(0, identity, 0)
        if max(abs(conditions.pose.yaw), abs(conditions.pose.pitch)) > 0.1:
            continue
        _, landmarks = render_photograph(draw_person(0, identity), conditions)
        matrix = similarity_transform(landmarks, TEMPLATES["arcface_112"])
        aligned = landmarks @ matrix[:, :2].T + matrix[:, 2]
        distances.append(np.linalg.norm(aligned - TEMPLATES["arcface_112"], axis=1).mean())
    assert len(distances) >= 5
    assert np.mean(distances) < 4.0  # pixels of the crop, whose eyes are 35 apart


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Small convolutions one after another: a second thread only waits, and on a busy machine waits long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_torch_thread")
def test_mtcnn_finds_the_faces_and_their_landmarks():
    from facenet_pytorch import MTCNN

    detector = MTCNN(keep_all=True, device="cpu")
    count, errors = 100, []
    for identity in range(5000, 5000 + count):
        pixels, landmarks = photograph(identity)
        _, _, points = detector.detect(pixels, landmarks=True)
        eye_distance = np.linalg.norm(landmarks[1] - landmarks[0])
        candidates = [np.asarray(face, np.float64) for face in (points if points is not None else [])]
        found = [np.linalg.norm(face - landmarks, axis=1).mean() / eye_distance for face in candidates]
        errors.extend([min(found)] if found and min(found) < 0.35 else [])
    assert len(errors) >= 0.95 * count
    assert np.median(errors) < 0.12


@pytest.mark.slow
def test_raw_pixels_cannot_tell_people_apart():
    """Were correlation of pixels enough, nothing would have to be learned."""
    rng = np.random.default_rng(0)
    people, each, pairs = 60, 6, 2000
    faces = standardised_grey([crop(100_000 + i, sample) for i in range(people) for sample in range(each)])
    faces = faces.reshape(people, each, -1)
    genuine, impostor = [], []
    for _ in range(pairs // 2):
        first, second = rng.choice(people, 2, replace=False)
        here, there = rng.choice(each, 2, replace=False)
        genuine.append(faces[first, here] @ faces[first, there])
        impostor.append(faces[first, here] @ faces[second, there])
    thresholds = np.linspace(-1, 1, 401)[:, None]
    accuracy = ((np.array(genuine) > thresholds).mean(axis=1) + (np.array(impostor) <= thresholds).mean(axis=1)) / 2
    assert accuracy.max() <= 0.75


def test_photographs_are_written_one_folder_per_person(tmp_path: Path):
    assert write_photographs(tmp_path, identities=2, images_per_identity=3, seed=1, size=160) == 6
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == [f"person-{identity:05d}/{number:03d}.jpg" for identity in range(2) for number in range(3)]
    assert read_image(tmp_path / files[0]).shape == (160, 160, 3)
