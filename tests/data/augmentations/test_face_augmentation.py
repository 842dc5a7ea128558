from __future__ import annotations

import numpy as np
import pytest

from frtrain.data.augmentations.face import at_low_resolution, cropped_in_place, occluded

IMAGE = np.random.default_rng(0).integers(1, 256, (112, 112, 3), dtype=np.uint8)
GENERATORS = [np.random.default_rng(seed) for seed in range(200)]


def extent(mask: np.ndarray) -> tuple[int, int]:
    """Rows and columns of the rectangle that a mask is; it must be one."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    return len(rows), len(columns)


def test_a_crop_leaves_one_rectangle_in_its_place_and_the_rest_black():
    shares, aspects = [], []
    for random in GENERATORS:
        result = cropped_in_place(IMAGE, random)
        left = result.any(axis=2)
        rows, columns = extent(left)
        assert np.array_equal(result[left], IMAGE[left])
        shares.append(rows * columns / 112**2)
        aspects.append(columns / rows)
    assert min(shares) < 0.25
    assert max(shares) > 0.9
    assert min(shares) > 0.19
    assert 0.72 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.37


def test_a_crop_of_a_crop_that_is_no_square_stays_within_it():
    for random in GENERATORS[:50]:
        assert cropped_in_place(IMAGE[:, :96], random).shape == (112, 96, 3)


def test_low_resolution_removes_detail_and_keeps_the_mean():
    smooth = np.add.outer(np.arange(112), np.arange(112)).astype(np.uint8)[:, :, None].repeat(3, axis=2)
    detail = [
        np.abs(np.diff(at_low_resolution(IMAGE, random).astype(int), axis=1)).mean() for random in GENERATORS[:60]
    ]
    assert np.median(detail) < 0.6 * np.abs(np.diff(IMAGE.astype(int), axis=1)).mean()
    for random in GENERATORS[:20]:
        assert at_low_resolution(smooth, random).mean() == pytest.approx(
            smooth.mean(), abs=8
        )  # nearest takes the corner of each block


def test_an_occlusion_is_one_rectangle_of_one_colour():
    kinds = {"eyes": 0, "below the nose": 0}
    for random in GENERATORS:
        result = occluded(IMAGE, random)
        hidden = (result != IMAGE).any(axis=2)
        rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert len(rows) >= 12
        assert len(columns) >= 20
        colours = result[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
        assert (colours == colours[0]).all()
        kinds["eyes"] += rows[0] < 52 < rows[-1] and len(columns) > 2 * len(rows)
        kinds["below the nose"] += rows[-1] == 111 and 60 <= rows[0] <= 82
    assert min(kinds.values()) > 40
