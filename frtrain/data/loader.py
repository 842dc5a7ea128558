"""Batches of uint8 crops in a deterministic order, decoded in worker processes."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from frtrain.data.augmentation import Augmentation
from frtrain.data.order import SampleKey, ShuffledOrder, sample_generator
from frtrain.data.source import Source
from frtrain.errors import DataError, ImageError
from frtrain.signals import STOP_SIGNALS


warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)  # workers are chosen


@dataclass(frozen=True)
class Batch:
    """Samples of one step that this process trains on.

    Attributes:
        images: `uint8 [b, 3, H, W]`, RGB.
        labels: `int64 [b]`.
        indices: `int64 [b]`, positions in the source.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pin_memory(self) -> Batch:
        """Called by torch's loader when copies to a GPU shall be asynchronous."""
        return Batch(self.images.pin_memory(), self.labels.pin_memory(), self.indices)


class AugmentedSamples(Dataset):  # type: ignore[type-arg]
    """A source seen through augmentation, addressed by `SampleKey`."""

    def __init__(self, source: Source, augmentation: Augmentation, seed: int):
        self.source = source
        self.augmentation = augmentation
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> tuple[torch.Tensor, int, int] | ImageError:
        # An exception raised in a worker loses its type on the way; a value does not.
        try:
            image = self.source.image(key.sample)
        except ImageError as error:
            return error
        augmented = self.augmentation(image, sample_generator(self.seed, key))
        planes = np.ascontiguousarray(augmented.transpose(2, 0, 1))
        return torch.from_numpy(planes), int(self.source.labels[key.sample]), key.sample


class KeyBatches:
    """The keys of `count` batches, in the form that torch's loader iterates."""

    def __init__(self, order: ShuffledOrder, position: int, batch_size: int, count: int, rows: slice):
        self.order, self.position, self.batch_size, self.count, self.rows = order, position, batch_size, count, rows

    def __iter__(self) -> Iterator[list[SampleKey]]:
        return self.order.batches(self.position, self.batch_size, self.count, self.rows)

    def __len__(self) -> int:
        return self.count


class TrainingLoader:
    """Endless deterministic batches from any position.

    Args:
        source: labelled crops.
        augmentation: applied per sample with its own generator.
        batch_size: images per batch, of all processes that train together.
        seed: of order and augmentation.
        workers: decoding processes; 0 decodes in the calling process. Does not change the batches.
        pin_memory: page-locked batches, for asynchronous copies to a GPU.
        rows: of each batch, those that are this process's; only they are decoded.
    """

    def __init__(
        self,
        source: Source,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        workers: int,
        pin_memory: bool,
        rows: slice = slice(None),
    ):
        self.order = ShuffledOrder(len(source), seed)
        self.samples = AugmentedSamples(source, augmentation, seed)
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.rows = rows

    def batches(self, position: int, count: int) -> Iterator[Batch]:
        """This process's rows of `count` batches, the first starting at `position` samples consumed.

        Raises:
            DataError: an image cannot be decoded; the message names it.
        """
        loader: DataLoader[Batch | ImageError] = DataLoader(
            self.samples,
            batch_sampler=KeyBatches(self.order, position, self.batch_size, count, self.rows),
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=self.pin_memory,
            worker_init_fn=prepare_worker,
            prefetch_factor=4 if self.workers else None,
        )
        try:
            for batch in loader:
                if isinstance(batch, ImageError):
                    raise DataError(
                        f"{batch}. Remove or replace the file; `python -m frtrain inspect data=...` lists all"
                    )
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a loader process died ({str(error).splitlines()[0]}). Memory may have run out: use fewer trainer.workers"
            ) from None


def collate(samples: list[tuple[torch.Tensor, int, int] | ImageError]) -> Batch | ImageError:
    """Stack samples into a batch; the first undecodable image takes the batch's place."""
    good = []
    for sample in samples:
        if isinstance(sample, ImageError):
            return sample
        good.append(sample)
    images, labels, indices = zip(*good, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), torch.tensor(indices))


def prepare_worker(worker: int) -> None:
    """One thread per decoding process, and stop signals left to the training process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
