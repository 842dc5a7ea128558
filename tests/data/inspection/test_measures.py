from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from frtrain.data.inspection.measures import FORMATS, MEASURES, is_grey, measure_file, measure_pixels, sharpness_of


def measured(image: np.ndarray, data: bytes = b"") -> np.void:
    record = np.zeros(1, dtype=MEASURES)
    measure_file(record, data)
    measure_pixels(record, image)
    return record[0]


def test_an_image_takes_about_a_hundred_bytes():
    assert MEASURES.itemsize <= 112


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)
    wide = np.pad(grey.astype(float), 1, mode="reflect")
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    assert sharpness_of(grey) == pytest.approx((around - 4 * grey.astype(float)).var(), rel=1e-6)


def test_blur_lowers_sharpness():
    grey = np.random.default_rng(1).integers(0, 256, (112, 112), dtype=np.uint8)
    assert sharpness_of(cv2.GaussianBlur(grey, (0, 0), 3)) < 0.2 * sharpness_of(grey)


def test_brightness_and_contrast_are_mean_and_deviation_of_grey():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    grey = image @ np.array([0.299, 0.587, 0.114])
    found = measured(image)
    assert found["brightness"] == pytest.approx(grey.mean(), abs=0.1)
    assert found["contrast"] == pytest.approx(grey.std(), abs=0.1)
    assert (found["width"], found["height"]) == (112, 112)


def test_grey_means_equal_channels_everywhere():
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (50, 60, 1), dtype=np.uint8), 3, axis=2)
    assert is_grey(grey)
    tinted = grey.copy()
    tinted[49, 59, 2] ^= 1
    assert not is_grey(tinted)


def test_digests_are_of_the_file_and_of_size_and_pixels():
    image = np.zeros((2, 8, 3), dtype=np.uint8)
    found = measured(image, b"file")
    assert found["file_digest"].tobytes() == hashlib.sha256(b"file").digest()[:16]
    assert found["pixel_digest"].tolist() == measured(image[::-1].copy(), b"other")["pixel_digest"].tolist()
    assert found["pixel_digest"].tolist() != measured(image.reshape(4, 4, 3), b"file")["pixel_digest"].tolist()


def test_the_format_is_told_by_the_first_bytes(pictures):
    image = pictures.draw(0)
    for data, name in (
        (pictures.jpeg(image), "JPEG"),
        (pictures.png(image), "PNG"),
        (b"text", "unknown"),
        (b"", "unknown"),
    ):
        assert FORMATS[measured(image, data)["format"]] == name
    for extension, name in ((".webp", "WebP"), (".bmp", "BMP"), (".tiff", "TIFF")):
        assert FORMATS[measured(image, cv2.imencode(extension, image)[1].tobytes())["format"]] == name
