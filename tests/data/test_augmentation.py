from __future__ import annotations

import numpy as np
import pytest

from frtrain.data.augmentation import AUGMENTATIONS, Augmentation
from frtrain.data.order import SampleKey, sample_generator

IMAGE = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
JITTER = {"name": "jitter", "flip": 0.5, "shift_pixels": 4, "scale": 0.06, "rotation_degrees": 5, "light": 0.15}
ALL = [{"name": "none"}, {"name": "flip", "probability": 0.5}, JITTER]


def applied(augmentation: Augmentation, epoch: int, sample: int) -> np.ndarray:
    return augmentation(IMAGE, sample_generator(1, SampleKey(epoch, sample)))


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec["name"])
def test_augmentation_is_a_pure_function_of_seed_epoch_and_image(spec: dict[str, object]):
    first, second = AUGMENTATIONS.build(spec), AUGMENTATIONS.build(spec)
    for sample in range(8):
        second(IMAGE, np.random.default_rng(sample))  # a history that must not matter
        assert np.array_equal(applied(first, 3, sample), applied(second, 3, sample))


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec["name"])
def test_augmentation_keeps_type_and_size_and_leaves_its_input_alone(spec: dict[str, object]):
    before = IMAGE.copy()
    result = applied(AUGMENTATIONS.build(spec), 0, 0)
    assert (result.dtype, result.shape) == (np.uint8, (112, 112, 3))
    assert np.array_equal(before, IMAGE)


def test_flip_mirrors_about_half_of_the_images_and_changes_no_other():
    flip = AUGMENTATIONS.build({"name": "flip", "probability": 0.5})
    results = [applied(flip, 0, sample) for sample in range(200)]
    mirrored = sum(np.array_equal(result, IMAGE[:, ::-1]) for result in results)
    assert 70 < mirrored < 130
    assert mirrored + sum(np.array_equal(result, IMAGE) for result in results) == 200


def test_jitter_of_nothing_changes_nothing():
    still = {"name": "jitter", "flip": 0.0, "shift_pixels": 0, "scale": 0.0, "rotation_degrees": 0.0, "light": 0.0}
    assert np.array_equal(applied(AUGMENTATIONS.build(still), 0, 0), IMAGE)


def test_jitter_differs_between_epochs():
    jitter = AUGMENTATIONS.build(JITTER)
    assert not np.array_equal(applied(jitter, 0, 5), applied(jitter, 1, 5))
