from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from frtrain.data.augmentation import NoAugmentation
from frtrain.data.batches import Batch
from frtrain.data.corrupt import CorruptImages, OnCorrupt, ReadableSource, stand_ins
from frtrain.data.loader import TrainingLoader
from frtrain.data.samplers.shuffled import Shuffled
from frtrain.data.source import Source
from frtrain.errors import DataError, ImageError


class PartlyUnreadable:
    """Identities of four images each; every pixel of an image is its number."""

    fingerprint = "partly unreadable"

    def __init__(self, bad: set[int], identities: int = 3):
        self.bad = bad
        self.classes: Sequence[str] = [str(number) for number in range(identities)]
        self.labels: NDArray[np.int64] = np.repeat(np.arange(identities, dtype=np.int64), 4)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> NDArray[np.uint8]:
        if index in self.bad:
            raise ImageError(self.describe(index), "is damaged")
        return np.full((112, 112, 3), index, dtype=np.uint8)

    def describe(self, index: int) -> str:
        return f"image {index}"


def loader(
    source: Source, on_corrupt: OnCorrupt, size: int = 6, workers: int = 0, rows: slice = slice(None)
) -> TrainingLoader:
    sampler = Shuffled(source.labels, size)
    return TrainingLoader(
        source, sampler, NoAugmentation(), size, 1, workers, pin_memory=False, rows=rows, on_corrupt=on_corrupt
    )


def shown(batch: Batch) -> list[int]:
    """Which image each row shows."""
    return batch.images[:, 0, 0, 0].tolist()


def epoch(own: TrainingLoader) -> Batch:
    one, other = own.batches(0, 2)
    names = ("images", "labels", "indices", "epochs")
    return Batch(*(torch.cat([getattr(one, name), getattr(other, name)]) for name in names))


@pytest.mark.parametrize("workers", [0, 1])
def test_skip_keeps_the_row_without_an_identity_and_with_pixels_of_another(workers: int):
    own = loader(PartlyUnreadable({1, 6}), "skip", workers=workers)
    for batch in own.batches(0, 2):
        for index, label, image in zip(batch.indices.tolist(), batch.labels.tolist(), shown(batch), strict=True):
            if index in (1, 6):
                assert label == -1
                assert image in set(batch.indices.tolist()) - {1, 6}
            else:
                assert (label, image) == (index // 4, index)
    assert sorted(own.corrupt.unreported()) == ["image 1: is damaged", "image 6: is damaged"]


@pytest.mark.parametrize("workers", [0, 1])
def test_replace_shows_another_image_of_the_identity(workers: int):
    own = loader(PartlyUnreadable({1, 6}), "replace", workers=workers)
    batch = epoch(own)
    for index, label, image in zip(batch.indices.tolist(), batch.labels.tolist(), shown(batch), strict=True):
        assert label == index // 4 == image // 4
        assert (image == index) == (index not in (1, 6))
    assert sorted(own.corrupt.unreported()) == ["image 1: is damaged", "image 6: is damaged"]


def test_what_replaces_an_image_is_the_same_for_every_split_and_another_in_other_epochs():
    source = PartlyUnreadable({1})

    def replacements(rows: Sequence[slice]) -> list[int]:
        parts = [loader(source, "replace", size=12, rows=part).batches(0, 30) for part in rows]
        batches = [
            [image for part in step for image in zip(part.indices.tolist(), shown(part), strict=True)]
            for step in zip(*parts, strict=True)
        ]
        return [image for batch in batches for index, image in batch if index == 1]

    whole = replacements([slice(None)])
    assert whole == replacements([slice(0, 5), slice(5, 12)])
    assert set(whole) == {0, 2, 3}


def test_where_no_image_of_the_identity_can_be_read_replace_is_skip():
    own = loader(PartlyUnreadable({4, 5, 6, 7}), "replace")
    batch = epoch(own)
    assert batch.labels[torch.isin(batch.indices, torch.arange(4, 8))].tolist() == [-1] * 4
    assert len(own.corrupt.unreported()) == 4


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on_corrupt", ["skip", "replace"])
def test_a_batch_without_any_readable_image_is_an_error(on_corrupt: OnCorrupt, workers: int):
    with pytest.raises(
        DataError, match=r"none of the 6 images of a batch can be read; the first: image \d+: is damaged"
    ):
        list(loader(PartlyUnreadable(set(range(12))), on_corrupt, workers=workers).batches(0, 1))


def test_stand_ins_are_the_other_images_of_the_identity_each_once():
    labels = np.array([0, 1, 0, 0, 1, 0])
    for word in (-7, 0, 5, 2**62):
        assert sorted(stand_ins(labels, 2, word)) == [0, 3, 5]
    assert len({next(stand_ins(labels, 2, word)) for word in range(3)}) == 3
    assert list(stand_ins(np.array([0, 1]), 1, 3)) == []


def test_an_image_is_reported_once():
    corrupt = CorruptImages()
    corrupt.add(["a", "b", "a"])
    assert corrupt.unreported() == ["a", "b"]
    corrupt.add(["b", "c"])
    assert corrupt.unreported() == ["c"]


def test_a_readable_source_gives_another_image_of_the_identity_and_tells():
    corrupt = CorruptImages()
    source = ReadableSource(PartlyUnreadable({4, 5}), corrupt)
    assert [int(source.image(index)[0, 0, 0]) for index in range(4, 8)] == [6, 6, 6, 7]
    assert corrupt.unreported() == ["image 4: is damaged", "image 5: is damaged"]
    with pytest.raises(ImageError, match="image 5"):
        ReadableSource(PartlyUnreadable({4, 5, 6, 7}), corrupt).image(5)


def test_a_readable_source_is_the_same_data():
    inner = PartlyUnreadable({1})
    source = ReadableSource(inner, CorruptImages())
    assert (source.fingerprint, len(source), source.describe(3)) == (inner.fingerprint, 12, "image 3")
