from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from frtrain.commands.composition import compose_plain, group_defaults
from frtrain.data import SOURCES, Source
from frtrain.data.augmentation import AUGMENTATIONS
from frtrain.data.batches import Batch
from frtrain.data.device_augmentation import DEVICE_AUGMENTATIONS
from frtrain.data.loader import AHEAD, TrainingLoader
from frtrain.data.samplers import SAMPLERS
from frtrain.errors import DataError


@pytest.fixture
def source(crops_folder: Callable[..., Path]) -> Source:
    root = crops_folder(identities=4, images=3)
    return SOURCES.build(compose_plain("train", ["data=folder", f"data.root={root}"])["data"])


def loader(
    source: Source, workers: int = 0, size: int = 5, rows: slice = slice(None), **other: object
) -> TrainingLoader:
    augmentation = AUGMENTATIONS.build(group_defaults("augment", str(other.pop("augment", "flip"))))
    sampler = SAMPLERS.build({"name": "shuffled"}, labels=source.labels, batch_size=size)
    return TrainingLoader(
        source, sampler, augmentation, batch_size=size, seed=3, workers=workers, pin_memory=False, rows=rows, **other
    )


def batches(source: Source, position: int, count: int, **other: object) -> list[Batch]:
    return list(loader(source, **other).batches(position, count))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for tensor in ("images", "labels", "indices", "epochs"):
            assert torch.equal(getattr(a, tensor), getattr(b, tensor)), tensor


def joined(parts: list[Batch]) -> Batch:
    names = ("images", "labels", "indices", "epochs")
    return Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_holds_uint8_planes_with_their_labels(source: Source, workers: int):
    batch = batches(source, 0, 1, workers=workers)[0]
    assert (batch.images.dtype, tuple(batch.images.shape)) == (torch.uint8, (5, 3, 112, 112))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels.tolist() == source.labels[batch.indices.numpy()].tolist()
    assert batch.epochs.tolist() == [0] * 5
    for row, index in enumerate(batch.indices.tolist()):
        image, seen = source.image(index).transpose(2, 0, 1), batch.images[row].numpy()
        assert np.array_equal(seen, image) or np.array_equal(seen, image[:, :, ::-1])


def test_half_of_the_images_are_mirrored_and_others_in_the_next_epoch(source: Source):
    def mirrored(position: int) -> dict[int, bool]:
        (batch,) = batches(source, position, 1, size=12)
        images = zip(batch.indices.tolist(), batch.images.numpy(), strict=True)
        return {index: not np.array_equal(seen, source.image(index).transpose(2, 0, 1)) for index, seen in images}

    first, second = mirrored(0), mirrored(12)
    assert 0 < sum(first.values()) < 12
    assert first != second


@pytest.mark.parametrize("augment", ["flip", "jitter", "adaface"])
def test_worker_processes_change_nothing(source: Source, augment: str):
    alone = batches(source, 0, 4, augment=augment)
    assert_same(alone, batches(source, 0, 4, workers=2, augment=augment))


def test_batches_stay_what_they_are_when_the_memory_they_came_through_is_used_again(source: Source):
    count = 3 * (AHEAD + 2)  # three turns of one worker's ring
    assert_same(batches(source, 0, count), batches(source, 0, count, workers=1))


def test_workers_end_with_the_iteration(source: Source):
    iterator = loader(source, workers=2).batches(0, 50)
    next(iterator)
    assert len(multiprocessing.active_children()) == 2
    iterator.close()
    del iterator
    gc.collect()
    assert not multiprocessing.active_children()


def test_going_on_from_a_position_gives_the_same_pixels(source: Source):
    assert_same(batches(source, 0, 6)[4:], batches(source, 20, 2))


def test_the_parts_of_several_processes_make_the_batches_of_one(source: Source):
    first, second = (batches(source, 7, 4, rows=rows) for rows in (slice(0, 3), slice(3, 5)))
    whole = [joined([a, b]) for a, b in zip(first, second, strict=True)]
    assert_same(whole, batches(source, 7, 4))


def test_a_process_decodes_its_own_part_only(source: Source, tmp_path: Path):
    other = int(batches(source, 0, 1)[0].indices[4])
    (tmp_path / "crops" / f"person_{other // 3:03d}" / f"{other % 3}.png").write_bytes(b"no image")
    assert len(batches(source, 0, 1, rows=slice(0, 3))[0]) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_image_is_an_error_that_names_it_also_from_a_worker(
    source: Source, tmp_path: Path, workers: int
):
    (tmp_path / "crops" / "person_002" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"person_002.1\.png: is not an image.*trainer\.on_corrupt=skip.*inspect"):
        batches(source, 0, 3, workers=workers)


class Grey:
    """A source that breaks the contract."""

    classes: Sequence[str] = ("a", "b")
    labels = np.array([0, 1])
    fingerprint = "grey"

    def __len__(self) -> int:
        return 2

    def image(self, index: int) -> np.ndarray:
        return np.zeros((112, 112, 1), np.uint8)

    def describe(self, index: int) -> str:
        return f"grey image {index}"


def test_an_image_of_another_shape_is_an_error_that_names_it():
    with pytest.raises(DataError, match=r"grey image \d: has the shape \(112, 112, 1\)"):
        batches(Grey(), 0, 1)


def test_without_augmentation_on_the_device_a_batch_is_left_as_it_is(source: Source):
    own = loader(source)
    (batch,) = own.batches(0, 1)
    assert own.augmented(batch, torch.device("cpu")) is batch


def test_augmentation_on_the_device_is_the_same_for_one_process_and_for_several(source: Source):
    spec = {**group_defaults("device_augment", "face"), "shift": 0.1, "light": 0.2, "occlusion": 0.5}

    def augmented(position: int, **other: object) -> Batch:
        own = loader(source, device_augmentation=DEVICE_AUGMENTATIONS.build(spec), **other)
        (batch,) = own.batches(position, 1)
        return own.augmented(batch, torch.device("cpu"))

    whole = augmented(9)
    parts = joined([augmented(9, rows=rows) for rows in (slice(0, 2), slice(2, 5))])
    assert whole.images.dtype == torch.float32
    assert torch.allclose(whole.images, parts.images, atol=1e-3)
    assert whole.epochs.tolist() == [0, 0, 0, 1, 1]
    with_workers = augmented(9, workers=1)
    assert torch.equal(whole.images, with_workers.images)
