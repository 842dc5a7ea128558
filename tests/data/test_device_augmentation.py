from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from frtrain.commands.composition import group_defaults
from frtrain.data.device_augmentation import DEVICE_AUGMENTATIONS, DeviceAugmentation
from frtrain.data.order import sample_words

SIZE = 112
WORDS = sample_words(3, torch.full((64,), 5), torch.arange(64))
COARSE = torch.rand(64, 3, 14, 14, generator=torch.Generator().manual_seed(0))
IMAGES = (F.interpolate(COARSE, (SIZE, SIZE), mode="bilinear") * 255).to(torch.uint8)
EVERYTHING = {
    "shift": 0.05,
    "scale": 0.1,
    "rotation_degrees": 10,
    "light": 0.3,
    "low_resolution": 0.5,
    "occlusion": 0.5,
}
OFF = {"flip": 0, "shift": 0, "scale": 0, "rotation_degrees": 0, "light": 0, "low_resolution": 0, "occlusion": 0}


def built(**parameters: Any) -> DeviceAugmentation:
    return DEVICE_AUGMENTATIONS.build({**group_defaults("device_augment", "face"), **parameters})


def alone(**parameters: Any) -> torch.Tensor:
    return built(**{**OFF, **parameters})(IMAGES, WORDS)


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_the_split_of_the_batch_changes_nothing(rows: int):
    augmentation = built(**EVERYTHING)
    whole = augmentation(IMAGES[:16], WORDS[:16])
    parts = [augmentation(i, w) for i, w in zip(IMAGES[:16].split(rows), WORDS[:16].split(rows), strict=True)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-3)  # of 255: sums of another order


def test_memory_layout_changes_nothing():
    augmentation = built(**EVERYTHING)
    other = IMAGES.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(augmentation(IMAGES, WORDS), augmentation(other, WORDS), atol=1e-3)


def test_other_epochs_and_samples_get_other_pixels():
    augmentation = built(**EVERYTHING)
    same = IMAGES[:1].expand(8, -1, -1, -1)
    results = augmentation(same, WORDS[:8])
    assert all(not torch.equal(results[0], result) for result in results[1:])


def test_pixels_stay_in_range_and_the_input_is_left_alone():
    before = IMAGES.clone()
    result = built(**EVERYTHING)(IMAGES, WORDS)
    assert result.dtype == torch.float32
    assert result.shape == IMAGES.shape
    assert 0 <= float(result.min()) <= float(result.max()) <= 255
    assert torch.equal(before, IMAGES)


def test_nothing_changes_nothing():
    assert torch.equal(alone(), IMAGES.float())


def test_flip_mirrors_about_half_of_the_rows():
    result = alone(flip=0.5)
    mirrored = [torch.equal(r, i.flip(2).float()) for r, i in zip(result, IMAGES, strict=True)]
    kept = [torch.equal(r, i.float()) for r, i in zip(result, IMAGES, strict=True)]
    assert sum(mirrored) + sum(kept) == 64
    assert 16 < sum(mirrored) < 48


def test_a_shift_moves_by_at_most_its_share():
    spot = torch.zeros(64, 3, SIZE, SIZE, dtype=torch.uint8)
    spot[:, :, 55:57, 55:57] = 255
    result = built(**{**OFF, "shift": 0.1})(spot, WORDS).mean(dim=1)
    places = torch.arange(SIZE).float() + 0.5
    for across in (1, 2):
        middle = (result.sum(dim=across) * places).sum(dim=1) / result.sum(dim=(1, 2))
        assert float((middle - 56).abs().max()) < 0.1 * SIZE + 0.5
        assert float(middle.std()) > 4


def test_rotation_turns_about_the_middle_and_scale_changes_distances_from_it():
    spot = torch.zeros(64, 3, SIZE, SIZE, dtype=torch.uint8)
    spot[:, :, 84:88, 54:58] = 255  # 30 below the middle
    places = torch.arange(SIZE).float() + 0.5 - 56

    def radius_and_angle(**parameters: Any) -> tuple[torch.Tensor, torch.Tensor]:
        result = built(**{**OFF, **parameters})(spot, WORDS).mean(dim=1)
        total = result.sum(dim=(1, 2))
        down, right = (result.sum(dim=2) * places).sum(1) / total, (result.sum(dim=1) * places).sum(1) / total
        return torch.hypot(down, right), torch.rad2deg(torch.atan2(right, down))

    radius, angle = radius_and_angle(rotation_degrees=20)
    assert float((radius - 30).abs().max()) < 0.5
    assert 15 < float(angle.abs().max()) < 20.5
    radius, angle = radius_and_angle(scale=0.2)
    assert float(angle.abs().max()) < 0.5
    assert 23.5 < float(radius.min()) < 26
    assert 34 < float(radius.max()) < 36.5


def test_light_of_a_grey_image_is_brightness_alone():
    grey = torch.full((64, 3, SIZE, SIZE), 100, dtype=torch.uint8)
    result = built(**{**OFF, "light": 0.3})(grey, WORDS)
    levels = result.mean(dim=(1, 2, 3))
    assert torch.allclose(result, levels[:, None, None, None].expand_as(result), atol=1e-3)
    assert 70 <= float(levels.min()) < 80
    assert 120 < float(levels.max()) <= 130


def test_low_resolution_removes_detail():
    noise = torch.randint(0, 256, (64, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = built(**{**OFF, "low_resolution": 0.5})(noise, WORDS)
    spread = result.std(dim=(1, 2, 3))
    changed = spread < 0.8 * noise.float().std(dim=(1, 2, 3))
    assert 16 < int(changed.sum()) < 48
    assert torch.equal(result[~changed], noise[~changed].float())


def test_an_occlusion_is_a_rectangle_of_one_grey():
    result = alone(occlusion=1)
    for row, image in zip(result, IMAGES, strict=True):
        hidden = (row != image).any(dim=0)
        rows, columns = hidden.any(dim=1).nonzero()[:, 0], hidden.any(dim=0).nonzero()[:, 0]
        assert 20 <= len(rows) <= 58
        assert 20 <= len(columns) <= 58
        inside = row[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert torch.equal(inside, inside[0, 0, 0].expand_as(inside))
