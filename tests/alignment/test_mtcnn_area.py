from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from frtrain.alignment.mtcnn.area import Tables, _added_up, starts_and_ends, summed_area_table

CPU = torch.device("cpu")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def interpolated(image: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    return interpolate(torch.from_numpy(image).permute(2, 0, 1)[None].float(), size=size, mode="area")


def test_bins_of_seven_pixels_in_three_overlap_by_one() -> None:
    starts, ends = starts_and_ends(torch.tensor(7), 3)
    assert starts.tolist() == [0, 2, 4]
    assert ends.tolist() == [3, 5, 7]


@pytest.mark.parametrize("size", [(2, 2), (13, 13), (40, 7), (61, 47), (90, 100)])
def test_levels_are_bit_for_bit_interpolation_of_mode_area(size: tuple[int, int]) -> None:
    images = [picture(61, 47, seed) for seed in range(2)]
    tables = Tables(images, CPU)
    [level] = tables.levels(tables.groups[0], [size])
    assert level.is_contiguous(memory_format=torch.channels_last)
    for mine, image in zip(level[:, :3], images, strict=True):
        assert torch.equal(mine, interpolated(image, size)[0])


def test_crops_of_images_of_several_sizes_are_bit_for_bit_interpolation_of_mode_area() -> None:
    images = [picture(70, 50, 1), picture(33, 90, 2), picture(70, 50, 3)]
    numbers = np.array([0, 1, 1, 2, 2, 0])
    corners = np.array(
        [[0, 0, 50, 70], [5, 7, 6, 8], [60, 3, 90, 33], [1, 2, 49, 50], [0, 69, 50, 70], [10, 10, 30, 31]]
    )
    crops = Tables(images, CPU).crops(numbers, corners, 24)
    for crop, number, (left, top, right, bottom) in zip(crops, numbers, corners, strict=True):
        expected = interpolated(images[number][top:bottom, left:right], (24, 24))[0]
        assert torch.equal(crop[:3], expected)


def test_tables_made_by_opencv_and_by_torch_are_the_sums() -> None:
    image = picture(20, 31)
    by_torch, by_opencv = _added_up(torch.from_numpy(image)), summed_area_table(image, CPU)
    assert torch.equal(by_torch[..., :3], by_opencv[..., :3])
    assert np.array_equal(by_torch[1:, 1:, :3], image.astype(np.int64).cumsum(0).cumsum(1))


def test_sums_beyond_31_bits_wrap_and_means_stay_right() -> None:
    image = np.full((3000, 3000, 3), 255, np.uint8)
    tables = Tables([image], CPU)
    assert (summed_area_table(image, CPU)[..., 0] < 0).any()
    [level] = tables.levels(tables.groups[0], [(12, 12)])
    assert torch.equal(level[:, :3], torch.full((1, 3, 12, 12), 255.0))
