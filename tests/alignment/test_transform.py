from __future__ import annotations

import cv2
import numpy as np
import pytest

from frtrain.alignment.transform import TEMPLATES, crop_size, placed_template, similarity_transform, warp

TEMPLATE = TEMPLATES["arcface_112"]


def umeyama(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The formula of Umeyama 1991, equations 34 to 42, by singular values."""
    centred_points, centred_template = points - points.mean(0), template - template.mean(0)
    u, d, vt = np.linalg.svd(centred_template.T @ centred_points / len(points))
    s = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / centred_points.var(axis=0).sum()
    shift = template.mean(0) - scale * rotation @ points.mean(0)
    return np.column_stack([scale * rotation, shift])


def rotated(points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ rotation.T + np.array(shift)


@pytest.mark.parametrize("seed", range(5))
def test_transform_of_noisy_landmarks_is_umeyamas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rotated(TEMPLATE, rng.uniform(-180, 180), rng.uniform(0.2, 20), (300, -40)) + rng.normal(0, 5, (5, 2))
    np.testing.assert_allclose(similarity_transform(points, TEMPLATE), umeyama(points, TEMPLATE), atol=1e-9)


def test_mirrored_landmarks_are_not_reflected_but_fitted_by_rotation() -> None:
    mirrored = TEMPLATE * [-1, 1]
    matrix = similarity_transform(mirrored, TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0
    np.testing.assert_allclose(matrix, umeyama(mirrored, TEMPLATE), atol=1e-9)


def test_transform_recovers_rotation_scale_and_shift_of_exact_landmarks() -> None:
    points = rotated(TEMPLATE, degrees=30, scale=3, shift=(100, 50))
    matrix = similarity_transform(points.astype(np.float32), TEMPLATE)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=1e-4)
    assert np.hypot(matrix[0, 0], matrix[1, 0]) == pytest.approx(1 / 3, rel=1e-5)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((5, 2), 7.0), "coincide"),
        (np.full((5, 2), np.nan), "finite"),
        (np.zeros((4, 2)), r"\(4, 2\)"),
        (np.array([[-1.0, 0], [1, 0], [0, 0], [1, 0], [-1, 0]]), "no orientation"),
    ],
)
def test_degenerate_landmarks_are_a_clear_error(points: np.ndarray, message: str) -> None:
    template = np.array([[-1.0, 0], [1, 0], [0, 0], [-1, 0], [1, 0]])
    with pytest.raises(ValueError, match=message):
        similarity_transform(points, template)


def test_photograph_in_the_template_frame_is_its_own_crop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    np.testing.assert_array_equal(warp(image, TEMPLATE), image)


def test_moderate_reduction_is_exactly_the_affine_warp_of_opencv() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 280, 3)).astype(np.uint8)
    points = rotated(TEMPLATE, degrees=-12, scale=1.7, shift=(60, 40))
    expected = cv2.warpAffine(image, similarity_transform(points, TEMPLATE), (112, 112), flags=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(warp(image, points), expected)


@pytest.mark.parametrize("scale", [2.3, 3.0, 7.6])
def test_landmarks_of_a_much_larger_face_fall_on_the_template(scale: float) -> None:
    points = rotated(TEMPLATE, degrees=20, scale=scale, shift=(137, 61))
    marked = np.zeros((1200, 1100), dtype=np.float64)
    sigma = 2.5 * scale
    y, x = np.mgrid[: marked.shape[0], : marked.shape[1]]
    for point_x, point_y in points:
        marked += np.exp(-((x - point_x) ** 2 + (y - point_y) ** 2) / (2 * sigma**2))
    image = np.repeat(np.rint(np.clip(marked, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)
    crop = warp(image, points)[..., 0].astype(np.float64)
    for point_x, point_y in TEMPLATE:
        row, column = round(point_y), round(point_x)
        patch = crop[row - 6 : row + 7, column - 6 : column + 7]
        offsets = np.arange(-6, 7)
        found = (column + (patch.sum(0) @ offsets) / patch.sum(), row + (patch.sum(1) @ offsets) / patch.sum())
        np.testing.assert_allclose(found, (point_x, point_y), atol=0.1)


def test_texture_finer_than_the_crop_is_averaged_and_not_aliased() -> None:
    stripes = np.zeros((1120, 1120, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    crop = warp(stripes, (TEMPLATE + 0.5) * 10 - 0.5)[1:-1, 1:-1]
    assert crop.min() >= 126
    assert crop.max() <= 129


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_outside_of_the_photograph_is_black(scale: float) -> None:
    image = np.full((round(112 * scale),) * 2 + (3,), 200, dtype=np.uint8)
    crop = warp(image, TEMPLATE * scale + np.array([-56 * scale, 0]))
    assert (crop[4:-4, :52] == 0).all()
    assert (crop[4:-4, 60:] == 200).all()


def test_face_wholly_outside_of_the_photograph_is_a_black_crop() -> None:
    image = np.full((300, 300, 3), 200, dtype=np.uint8)
    assert not warp(image, TEMPLATE * 5 + 4000).any()


def test_panorama_wider_than_opencv_can_address_is_aligned() -> None:
    image = np.zeros((112, 40_000, 3), dtype=np.uint8)
    image[:, 39_000:] = 90
    assert (warp(image, TEMPLATE + np.array([39_500, 0])) == 90).all()


def test_template_scales_with_the_size_of_the_crop() -> None:
    image = np.random.default_rng(1).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    np.testing.assert_array_equal(warp(image, TEMPLATE * 2, size=224), image)


def test_older_template_is_the_same_face_in_a_narrower_crop() -> None:
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    np.testing.assert_array_equal(warp(image, TEMPLATE, template="sphereface_112x96"), image[:, 8:104])


@pytest.mark.parametrize(
    ("size", "template", "expected"),
    [(224, "arcface_112", (224, 224)), (112, "sphereface_112x96", (112, 96)), (100, "sphereface_112x96", (100, 86))],
)
def test_width_of_a_crop_follows_from_its_height(size: int, template: str, expected: tuple[int, int]) -> None:
    points = TEMPLATES[template] * (size / 112)
    assert crop_size(size, template) == expected
    assert warp(np.zeros((300, 300, 3), np.uint8), points, size, template).shape == (*expected, 3)


def test_margin_adds_its_share_of_the_crop_on_each_side() -> None:
    image = np.random.default_rng(1).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    np.testing.assert_array_equal(warp(image, TEMPLATE + 56, size=224, margin=0.5), image)
    for template, width in {"arcface_112": 112, "sphereface_112x96": 96}.items():
        face = placed_template(112, template, 0.25)
        np.testing.assert_allclose(face, TEMPLATES[template] / 1.5 + np.array([width, 112]) / 6)
