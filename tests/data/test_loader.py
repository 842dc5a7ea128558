from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from frtrain.data import SOURCES, Source
from frtrain.data.augmentation import AUGMENTATIONS
from frtrain.data.loader import Batch, TrainingLoader
from frtrain.errors import DataError

FOLDER = {"name": "folder", "identities": None, "min_images": 1, "layout": "auto"}


@pytest.fixture
def source(crops_folder: Callable[..., Path]) -> Source:
    return SOURCES.build({**FOLDER, "root": str(crops_folder(identities=4, images=3))})


def batches(
    source: Source, position: int, count: int, workers: int = 0, size: int = 5, rows: slice = slice(None)
) -> list[Batch]:
    flip = AUGMENTATIONS.build({"name": "flip", "probability": 0.5})
    loader = TrainingLoader(source, flip, batch_size=size, seed=3, workers=workers, pin_memory=False, rows=rows)
    return list(loader.batches(position, count))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.indices, b.indices)


def test_a_batch_holds_uint8_planes_with_their_labels(source: Source):
    batch = batches(source, 0, 1)[0]
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (5, 3, 112, 112))
    assert batch.labels.tolist() == source.labels[batch.indices.numpy()].tolist()
    image = source.image(int(batch.indices[0])).transpose(2, 0, 1)
    seen = batch.images[0].numpy()
    assert np.array_equal(seen, image) or np.array_equal(seen, image[:, :, ::-1])


def test_worker_processes_change_nothing(source: Source):
    assert_same(batches(source, 0, 4), batches(source, 0, 4, workers=2))


def test_going_on_from_a_position_gives_the_same_pixels(source: Source):
    assert_same(batches(source, 0, 6)[4:], batches(source, 20, 2))


def test_the_parts_of_several_processes_make_the_batches_of_one(source: Source):
    first, second = (batches(source, 7, 4, rows=rows) for rows in (slice(0, 3), slice(3, 5)))
    joined = [
        Batch(torch.cat([a.images, b.images]), torch.cat([a.labels, b.labels]), torch.cat([a.indices, b.indices]))
        for a, b in zip(first, second, strict=True)
    ]
    assert_same(joined, batches(source, 7, 4))


def test_a_process_decodes_its_own_part_only(source: Source, tmp_path: Path):
    other = int(batches(source, 0, 1)[0].indices[4])
    (tmp_path / "crops" / f"person_{other // 3:03d}" / f"{other % 3}.png").write_bytes(b"no image")
    assert len(batches(source, 0, 1, rows=slice(0, 3))[0]) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_image_is_an_error_that_names_it_also_from_a_worker(
    source: Source, tmp_path: Path, workers: int
):
    (tmp_path / "crops" / "person_002" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"person_002.1\.png: is not an image.*inspect"):
        batches(source, 0, 3, workers=workers)
