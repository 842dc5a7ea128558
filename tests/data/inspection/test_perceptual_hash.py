from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from frtrain.data.inspection.duplicates import FINE_DISTANCE, bit_count
from frtrain.data.inspection.perceptual_hash import hashes_of_grey, perceptual_hash


def photograph(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, 60, (9, 9, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (112, 112), interpolation=cv2.INTER_CUBIC), 5, 245).astype(np.uint8)


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "JPEG", quality=quality)
    return np.array(Image.open(encoded))


def both(image: np.ndarray) -> np.ndarray:
    return hashes_of_grey(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


ALTERED = {
    "recompressed": lambda image: recompressed(image, 50),
    "brighter": lambda image: image + np.uint8(5),
    "shifted": lambda image: np.roll(image, 1, axis=1),
    "reduced and enlarged": lambda image: cv2.resize(cv2.resize(image, (64, 64)), (112, 112)),
}


def test_a_hash_is_the_sign_of_low_frequencies_against_their_median():
    image = photograph(3)
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA).astype(float)
    low = dctn(small, norm="ortho")[:8, :8].ravel()
    threshold = np.sort(low[1:])[31] + 1 / 16
    expected = int("".join("1" if value > threshold else "0" for value in low), 2)
    assert perceptual_hash(image) == expected


@pytest.mark.parametrize("change", ALTERED)
def test_a_changed_copy_has_nearly_the_same_hash(change: str):
    for seed in range(20):
        original, copy = both(photograph(seed)), both(ALTERED[change](photograph(seed)))
        assert bit_count(original ^ copy)[0] <= 6
        assert bit_count(original ^ copy)[1:].sum() <= FINE_DISTANCE


def test_different_pictures_have_hashes_that_differ_in_many_bits():
    hashes = np.stack([both(photograph(seed)) for seed in range(40)])
    differing = bit_count(hashes[:, None] ^ hashes[None])
    others = ~np.eye(40, dtype=bool)
    assert differing[..., 0][others].min() > 8
    assert differing[..., 1:].sum(axis=-1)[others].min() > FINE_DISTANCE


def test_an_empty_picture_has_no_bits_but_that_of_its_brightness():
    for level in (0, 1, 17, 128, 255):
        found = both(np.full((112, 112, 3), level, dtype=np.uint8)).tolist()
        brightness = 1 << 63 if level else 0
        assert found == [brightness, brightness, 0, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 200, 3), (640, 480, 3)])
def test_images_of_any_size_have_a_hash(shape: tuple[int, int, int]):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert 0 <= perceptual_hash(image) < 2**64
