"""Batches in a deterministic order, decoded in worker processes.

Workers write decoded pixels straight into memory that they share with the training process, a ring of slots that are
used again and again. What travels between the processes is a few numbers, and no page of memory is touched for the
first time but in the first turn of the ring. The memory is anonymous: it does not come out of /dev/shm, which containers
keep small.
"""

from __future__ import annotations

import mmap
import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from itertools import starmap
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from frtrain.data.augmentation import Augmentation
from frtrain.data.batches import Batch, BatchMaker, BatchTask, Decoded, Pixels
from frtrain.data.corrupt import CorruptImages, OnCorrupt
from frtrain.data.device_augmentation import DeviceAugmentation
from frtrain.data.encoded import CROP_SIZE
from frtrain.data.order import SampleOrder, sample_words
from frtrain.data.samplers.base import Sampler
from frtrain.data.source import Source
from frtrain.errors import DataError
from frtrain.signals import STOP_SIGNALS

AHEAD = 4
"""Batches that each worker decodes ahead."""

warnings.filterwarnings("ignore", message="This DataLoader will create", category=UserWarning)  # workers are chosen


class BatchTasks:
    """The tasks of `count` batches, in the form that torch's loader iterates."""

    def __init__(self, order: SampleOrder, position: int, batch_size: int, count: int, rows: slice):
        self.order, self.position, self.batch_size, self.count, self.rows = order, position, batch_size, count, rows

    def __iter__(self) -> Iterator[BatchTask]:
        batches = self.order.batches(self.position, self.batch_size, self.count, self.rows)
        return starmap(BatchTask, enumerate(batches))

    def __len__(self) -> int:
        return self.count


class TrainingLoader:
    """Endless deterministic batches from any position.

    Args:
        source: labelled crops.
        sampler: which of them an epoch visits, in what order.
        augmentation: applied per sample with its own random numbers.
        batch_size: images per batch, of all processes that train together.
        seed: of order and augmentation.
        workers: decoding processes; 0 decodes in the calling process. Does not change the batches.
        pin_memory: page-locked batches, for asynchronous copies to a GPU.
        rows: of each batch, those that are this process's, side by side; only they are decoded.
        on_corrupt: what becomes of images that cannot be read.
        device_augmentation: applied by `augmented`, on the device; None: nothing is.

    Attributes:
        corrupt: the images that could not be read so far.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        workers: int,
        pin_memory: bool,
        rows: slice = slice(None),
        on_corrupt: OnCorrupt = "error",
        device_augmentation: DeviceAugmentation | None = None,
    ):
        self.source = source
        self.order = SampleOrder(sampler, seed)
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.pin_memory = pin_memory
        self.rows = rows
        self.on_corrupt = on_corrupt
        self.device_augmentation = device_augmentation
        self.corrupt = CorruptImages()

    def batches(self, position: int, count: int) -> Iterator[Batch]:
        """This process's rows of `count` batches, the first starting at `position` samples consumed.

        Raises:
            DataError: an image cannot be decoded and `on_corrupt` is error, or none of a batch can; names it.
        """
        slots = self._shared_slots() if self.workers and count else None
        loader: DataLoader[Decoded] = DataLoader(
            BatchMaker(self.source, self.augmentation, self.seed, self.on_corrupt, slots),
            batch_sampler=BatchTasks(self.order, position, self.batch_size, count, self.rows),  # type: ignore[arg-type] # any iterable does
            num_workers=self.workers,
            collate_fn=_as_it_is,
            worker_init_fn=prepare_worker,
            prefetch_factor=AHEAD if self.workers else None,
            multiprocessing_context="fork" if self.workers else None,  # others would not see the shared memory
        )
        try:
            for decoded in loader:
                if isinstance(decoded, DataError):
                    raise DataError(
                        f"{decoded}. Remove or replace the file, or go on without such images: trainer.on_corrupt=skip or "
                        "replace; `python -m frtrain inspect data=...` lists all"
                    )
                self.corrupt.add(decoded.corrupt)
                yield self._batch(decoded, slots)
        except RuntimeError as error:
            if (death := death_of_loader(error)) is None:
                raise
            raise death from None

    def augmented(self, batch: Batch, device: torch.device) -> Batch:
        """The batch as the network is to see it: on the device and augmented there, or as it is if nothing is done there."""
        if self.device_augmentation is None:
            return batch
        images, indices, epochs = (
            tensor.to(device, non_blocking=True) for tensor in (batch.images, batch.indices, batch.epochs)
        )
        augmented = self.device_augmentation(images, sample_words(self.seed, epochs, indices))
        return Batch(augmented, batch.labels, batch.indices, batch.epochs)

    def _shared_slots(self) -> Pixels:
        """Memory `uint8 [slots, b, H, W, 3]` that processes forked from this one write to and this one reads.

        torch's loader has no more than `workers * AHEAD` batches under way, besides the one that it has just handed on.
        """
        first, last, _ = self.rows.indices(self.batch_size)
        shape = (self.workers * AHEAD + 2, last - first, CROP_SIZE, CROP_SIZE, 3)
        try:
            memory = mmap.mmap(-1, max(1, int(np.prod(shape))))
        except (OSError, ValueError, OverflowError) as error:
            raise DataError(
                f"no memory for {shape[0]} batches of {shape[1]} images ({error}): use fewer trainer.workers or a smaller "
                "trainer.batch_size"
            ) from None
        return np.frombuffer(memory, dtype=np.uint8, count=int(np.prod(shape))).reshape(shape)

    def _batch(self, decoded: Decoded, slots: Pixels | None) -> Batch:
        """Tensors of their own: the slot will be written to again."""
        keys, number = decoded.task.keys, decoded.task.number
        if decoded.pixels is not None:
            pixels = torch.from_numpy(decoded.pixels)
        else:
            assert slots is not None  # one of the two holds them
            pixels = torch.from_numpy(slots[number % len(slots)][: len(keys.samples)])
        if slots is not None or self.pin_memory:
            pixels = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=self.pin_memory).copy_(pixels)
        labels = torch.from_numpy(decoded.labels)
        return Batch(
            images=pixels.permute(0, 3, 1, 2),
            labels=labels.pin_memory() if self.pin_memory else labels,
            indices=torch.from_numpy(keys.samples),
            epochs=torch.from_numpy(keys.epochs),
        )


def _as_it_is(decoded: Any) -> Any:
    """What torch's loader calls with the finished batch."""
    return decoded


def end_workers() -> None:
    """Kill the decoding processes, which nobody else ends where this process ends without unwinding."""
    for child in multiprocessing.active_children():
        child.kill()


def prepare_worker(worker: int) -> None:
    """One thread per decoding process, and stop signals left to the training process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def death_of_loader(error: RuntimeError) -> DataError | None:
    """What to raise instead if `error` is the one that torch raises, wherever the main thread is, when a loader process dies."""
    if "DataLoader worker" not in str(error):
        return None
    return DataError(
        f"a loader process died ({str(error).splitlines()[0]}). Memory may have run out: use fewer trainer.workers"
    )
