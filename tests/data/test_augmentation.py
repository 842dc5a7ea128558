from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from frtrain.commands.composition import choices, group_defaults
from frtrain.data.augmentation import AUGMENTATIONS, Augmentation, SampleRandom

IMAGE = np.random.default_rng(0).integers(1, 256, (112, 112, 3), dtype=np.uint8)
EVERYTHING = {"crop": 1.0, "low_resolution": 1.0, "photometric": 1.0, "occlusion": 1.0}


def built(name: str, **parameters: Any) -> Augmentation:
    return AUGMENTATIONS.build({**group_defaults("augment", name), **parameters})


ALL = {name: built(name) for name in choices("augment")} | {"everything": built("face", **EVERYTHING)}
SAME = {name: built(name) for name in choices("augment")} | {"everything": built("face", **EVERYTHING)}


def applied(augmentation: Augmentation, word: int) -> np.ndarray:
    out = np.empty_like(IMAGE)
    augmentation(IMAGE, SampleRandom(word * 0x9E3779B97F4A7C15), out)
    return out


@pytest.mark.parametrize("name", ALL)
def test_augmentation_is_a_pure_function_of_image_and_random_word(name: str):
    for word in range(8):
        SAME[name](IMAGE, SampleRandom(-word), np.empty_like(IMAGE))  # a history that must not matter
        assert np.array_equal(applied(ALL[name], word), applied(SAME[name], word))


@pytest.mark.parametrize("name", ALL)
def test_augmentation_keeps_type_and_size_and_leaves_its_input_alone(name: str):
    before = IMAGE.copy()
    for word in range(20):
        result = applied(ALL[name], word)
        assert (result.dtype, result.shape) == (np.uint8, (112, 112, 3))
    assert np.array_equal(before, IMAGE)


@pytest.mark.parametrize("name", ["flip", "face"])
def test_flip_mirrors_about_half_of_the_images_and_changes_no_other(name: str):
    results = [applied(ALL[name], word) for word in range(200)]
    mirrored = sum(np.array_equal(result, IMAGE[:, ::-1]) for result in results)
    assert 70 < mirrored < 130
    assert mirrored + sum(np.array_equal(result, IMAGE) for result in results) == 200


@pytest.mark.parametrize(("probability", "expected"), [(0.0, IMAGE), (1.0, IMAGE[:, ::-1])])
def test_a_certain_flip_is_certain(probability: float, expected: np.ndarray):
    flip = built("flip", probability=probability)
    assert all(np.array_equal(applied(flip, word), expected) for word in range(20))


def test_jitter_of_nothing_changes_nothing():
    still = built("jitter", flip=0.0, shift_pixels=0, scale=0.0, rotation_degrees=0.0, light=0.0)
    assert np.array_equal(applied(still, 1), IMAGE)


def test_flip_alone_asks_for_no_generator():
    random = SampleRandom(5)
    ALL["face"](IMAGE, random, np.empty_like(IMAGE))
    assert random._generator is None


def test_the_numbers_of_a_sample_are_uniform_and_its_generator_does_not_repeat_its_coin():
    words = np.random.default_rng(0).integers(-(2**63), 2**63, 2000)
    coins = np.array([SampleRandom(int(word)).coin for word in words])
    numbers = np.array([SampleRandom(int(word)).generator.random() for word in words])
    for values in (coins, numbers):
        assert values.min() >= 0
        assert values.max() < 1
        assert np.abs(np.histogram(values, 10, (0, 1))[0] - 200).max() < 60
    assert abs(np.corrcoef(coins, numbers)[0, 1]) < 0.08


def share_changed(probability: float, **other: float) -> float:
    face = built("face", flip=0.0, **{**other, "crop": probability})
    return float(np.mean([not np.array_equal(applied(face, word), IMAGE) for word in range(300)]))


def test_a_change_comes_as_often_as_its_probability_says():
    assert share_changed(0.0) == 0
    assert 0.12 < share_changed(0.2) < 0.29


def test_adaface_is_the_published_recipe():
    spec = group_defaults("augment", "adaface")
    assert spec == {
        "name": "face",
        "flip": 0.5,
        "crop": 0.2,
        "low_resolution": 0.2,
        "photometric": 0.2,
        "occlusion": 0,
    }
