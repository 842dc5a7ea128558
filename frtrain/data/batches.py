"""Batches of uint8 crops, made in one piece where they are decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from frtrain.data.augmentation import Augmentation, SampleRandom
from frtrain.data.corrupt import OnCorrupt, stand_ins
from frtrain.data.encoded import CROP_SIZE, EncodedSource
from frtrain.data.jpeg import decoder
from frtrain.data.order import SampleKeys, sample_words
from frtrain.data.source import Source
from frtrain.errors import DataError, ImageError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Samples of one step that this process trains on.

    Attributes:
        images: RGB `[b, 3, H, W]`; `uint8` as loaded, `float32` of 0 to 255 after augmentation on a device. In memory a
            pixel's colours lie side by side, as decoders write them and as convolutions like it (`torch.channels_last`).
        labels: `int64 [b]`; -1 where an image could not be read and none took its place.
        indices: `int64 [b]`, positions in the source.
        epochs: `int64 [b]`, which the samples are drawn in.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    epochs: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


class BatchTask(NamedTuple):
    """What one call of a loader's process makes.

    Attributes:
        number: of the batch, from 0.
        keys: its samples.
    """

    number: int
    keys: SampleKeys


@dataclass
class Decoded:
    """A batch, without its pixels where these lie in memory that both processes see.

    Attributes:
        task: what was asked for.
        labels: `int64 [b]`, see `Batch`.
        corrupt: what the errors of images that could not be read say.
        pixels: `uint8 [b, H, W, 3]`, or None.
    """

    task: BatchTask
    labels: NDArray[np.int64]
    corrupt: list[str] = field(default_factory=list)
    pixels: Pixels | None = None


class BatchMaker(Dataset[Decoded]):
    """A source seen through augmentation, a batch at a time.

    Errors are returned, not raised: an exception that is raised in a worker loses its type on the way.

    Args:
        source: labelled crops.
        augmentation: applied to each, with random numbers of its own.
        seed: of them.
        on_corrupt: what becomes of images that cannot be read.
        slots: `uint8 [n, b, H, W, 3]`, memory shared with the loader's processes: batch k is written to slot k modulo n.
            None: each batch gets memory of its own.
    """

    def __init__(
        self, source: Source, augmentation: Augmentation, seed: int, on_corrupt: OnCorrupt, slots: Pixels | None
    ):
        self.source = source
        self.augmentation = augmentation
        self.seed = seed
        self.on_corrupt = on_corrupt
        self.slots = slots
        decoder()  # before processes fork from this one, else each imports it

    def __getitems__(self, task: BatchTask) -> Decoded | DataError:
        """Called by torch's loader with what its batch sampler yields."""
        rows = len(task.keys.samples)
        if self.slots is None:
            pixels = np.empty((rows, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
            decoded = Decoded(task, np.array(self.source.labels[task.keys.samples], dtype=np.int64), pixels=pixels)
        else:
            pixels = self.slots[task.number % len(self.slots)][:rows]
            decoded = Decoded(task, np.array(self.source.labels[task.keys.samples], dtype=np.int64))
        return self._fill(pixels, decoded) or decoded

    def _fill(self, pixels: Pixels, decoded: Decoded) -> DataError | None:
        """Write the samples' pixels; returns why it cannot be done."""
        keys = decoded.task.keys
        samples = keys.samples.tolist()
        words = sample_words(self.seed, torch.from_numpy(keys.epochs), torch.from_numpy(keys.samples)).tolist()
        files = self._files(samples)
        unreadable: list[int] = []
        for row, (sample, word) in enumerate(zip(samples, words, strict=True)):
            image: Pixels | None
            try:
                image = self._image(sample, None if files is None else files[row])
            except ImageError as error:
                if self.on_corrupt == "error":
                    return error
                decoded.corrupt.append(str(error))
                image = self._replacement(sample, word, decoded.corrupt)
            if image is None:
                unreadable.append(row)
            else:
                self.augmentation(image, SampleRandom(word), pixels[row])
        if len(unreadable) == len(pixels) > 0:
            return DataError(
                f"none of the {len(pixels)} images of a batch can be read; the first: {decoded.corrupt[0]}"
            )
        if unreadable:
            readable = next(row for row in range(len(pixels)) if row not in unreadable)
            pixels[unreadable] = pixels[readable]
            decoded.labels[unreadable] = -1
        return None

    def _files(self, samples: list[int]) -> list[bytes | ImageError] | None:
        """The stored files, or why there is none; None where images are not stored as files.

        All are read before the first is decoded: taking turns, reading and decoding push each other out of the
        processor's caches, which costs as much as reading itself.
        """
        return self.source.encoded_batch(samples) if isinstance(self.source, EncodedSource) else None

    def _image(self, sample: int, file: bytes | ImageError | None = None) -> Pixels:
        if isinstance(file, bytes):
            return cast(EncodedSource, self.source).decoded(file, sample)
        if file is not None:
            raise file
        image = self.source.image(sample)
        if image.shape == (CROP_SIZE, CROP_SIZE, 3):
            return image  # numpy would repeat what is smaller
        reason = f"has the shape {image.shape}, not ({CROP_SIZE}, {CROP_SIZE}, 3)"
        raise ImageError(self.source.describe(sample), reason)

    def _replacement(self, sample: int, word: int, corrupt: list[str]) -> Pixels | None:
        if self.on_corrupt == "replace":
            for other in stand_ins(self.source.labels, sample, word):
                try:
                    return self._image(other)
                except ImageError as error:
                    corrupt.append(str(error))
        return None
