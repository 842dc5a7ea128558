"""From a configuration to a run."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import cast

import torch
from rich.console import Console
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from frtrain.auxiliary import AUXILIARIES
from frtrain.backbones import BACKBONES
from frtrain.bars import progress_bar
from frtrain.classifier import CLASSIFIERS
from frtrain.classifier.selection import Shard
from frtrain.config import TrainConfig
from frtrain.data import SOURCES
from frtrain.data.augmentation import AUGMENTATIONS
from frtrain.data.corrupt import ReadableSource
from frtrain.data.device_augmentation import DEVICE_AUGMENTATIONS
from frtrain.data.known import compare_with_known, known_of
from frtrain.data.loader import TrainingLoader
from frtrain.data.preprocessing import Preprocessing
from frtrain.data.samplers import SAMPLERS
from frtrain.data.selection import select
from frtrain.data.soundness import check_source
from frtrain.data.source import Preparable, Source
from frtrain.data.subset import hold_out_identities
from frtrain.errors import DataError
from frtrain.losses import LOSSES
from frtrain.modifiers import modified
from frtrain.processes import Processes
from frtrain.training.checkpoint import Checkpoint
from frtrain.training.distributed import all_or_none, shared
from frtrain.training.hardware import (
    choose_channels_last,
    choose_device,
    choose_precision,
    choose_threads,
    choose_workers,
    this_machine,
)
from frtrain.training.logbook import JsonLines, Logbook, Logger, TensorBoard
from frtrain.training.observers.base import Observer
from frtrain.training.observers.checkpointing import Checkpointing
from frtrain.training.observers.corrupt_images import CorruptImagesFile
from frtrain.training.observers.pictures import Pictures
from frtrain.training.observers.progress import ProgressLine
from frtrain.training.observers.scalars import Scalars
from frtrain.training.observers.validation import Validation
from frtrain.training.optimization import OPTIMIZERS, Optimization, parameter_groups
from frtrain.training.resume import check_same_data
from frtrain.training.run import Run
from frtrain.training.run_folder import RunFolder, run_folder_of
from frtrain.training.schedule import SCHEDULERS
from frtrain.training.shards import shards_of
from frtrain.training.state import TrainingState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run, and what the loop needs besides it."""

    run: Run
    loader: TrainingLoader
    observers: list[Observer]


def prepare(config: TrainConfig, folder: RunFolder, checkpoint: Checkpoint | None, console: Console) -> Prepared:
    """Build all parts of a run, restored to `checkpoint` if there is one.

    Raises:
        ConfigError, DataError, CheckpointError: what does not fit, by key, file or tensor.
        EndedElsewhereError: the same of another process.
    """
    count = Processes.current().count
    rows = tuple(len(Shard.of(config.trainer.batch_size, rank, count)) for rank in range(count))
    processes = Processes.current(rows, averaged=True)
    with all_or_none(processes):
        prepared = _build(config, folder, checkpoint, console, processes)
    run = prepared.run
    first_fingerprint = shared(processes, run.source.fingerprint)
    with all_or_none(processes):
        if run.source.fingerprint != first_fingerprint:
            raise DataError(
                f"this process has other data than the first one (fingerprint {run.source.fingerprint} here, "
                f"{first_fingerprint} there): data must be the same on every machine"
            )
    if processes.count > 1:
        # Its gradients are averaged over the processes; batch norm statistics, in every forward pass, are those of the first.
        run.network = DistributedDataParallel(run.backbone, gradient_as_bucket_view=True)
        log.info("%d processes, each with %s of %d images", processes.count, _shares(run), config.trainer.batch_size)
    return prepared


def _shares(run: Run) -> str:
    smaller, more = divmod(run.config.trainer.batch_size, run.processes.count)
    return f"{smaller} or {smaller + 1}" if more else f"{smaller}"


def _build(
    config: TrainConfig, folder: RunFolder, checkpoint: Checkpoint | None, console: Console, processes: Processes
) -> Prepared:
    """What `prepare` does without talking to the other processes."""
    trainer = config.trainer
    device = choose_device(trainer.device)
    precision = choose_precision(trainer.precision, device.value)
    channels_last = choose_channels_last(trainer.channels_last, device.value)
    workers = choose_workers(trainer.workers, device.value)
    threads = choose_threads(workers.value)
    torch.set_num_threads(threads.value)
    if device.value.type == "cuda":
        torch.cuda.set_device(device.value)  # where NCCL works
    for what, choice in (
        ("device", device),
        ("precision", precision),
        ("channels_last", channels_last),
        ("loader workers", workers),
        ("threads", threads),
    ):
        value = str(choice.value if choice.value is not None else torch.float32).removeprefix("torch.")
        log.info("%s %s: %s", what, value, choice.reason)

    everything = SOURCES.build(config.data)
    for sentence in compare_with_known(everything, known_of(config.data)):
        log.info("%s", sentence)
    source = select(everything, config.subset)
    check_source(source)
    machine = this_machine()
    if isinstance(everything, Preparable) and machine.local_rank == 0:  # the others of this machine wait
        _prepare_source(everything, len(everything), threads.value * machine.local_ranks, console)
    training, held_out = hold_out_identities(source, config.validation.fraction, config.seed)
    if checkpoint is not None:
        check_same_data(checkpoint, training)
    log.info("%s", _data_line(training, held_out))

    torch.manual_seed(config.seed)
    memory_format = torch.channels_last if channels_last.value else torch.contiguous_format
    network = BACKBONES.build(config.backbone)
    embedding_size, backbone = network.embedding_size, cast(nn.Module, network)
    if trainer.sync_batch_norm and processes.count > 1:
        backbone = nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    backbone.to(device.value).to(memory_format=memory_format)
    classifier = CLASSIFIERS.build(
        config.classifier,
        head=modified(LOSSES.build(config.loss), config.modifiers),
        classes=len(training.classes),
        embedding_size=embedding_size,
        processes=processes,
    )
    if config.auxiliary is not None:
        classifier.auxiliary = AUXILIARIES.build(config.auxiliary)
        classifier.auxiliary.set_up(len(training.classes), embedding_size)
    classifier.to(device.value)

    images_per_step = trainer.batch_size * trainer.accumulate
    steps_per_epoch = len(training) / images_per_step
    total_steps = min(
        math.ceil(trainer.epochs * steps_per_epoch - 1e-9) if trainer.epochs is not None else trainer.max_steps or 0,
        trainer.max_steps or math.inf,
    )
    modules = {"backbone": backbone, "classifier": classifier}
    divided = shards_of(classifier)
    optimization = Optimization(
        modules=modules,
        optimizer=OPTIMIZERS.build(config.optimizer, groups=parameter_groups(modules)),
        schedule=SCHEDULERS.build(config.scheduler, steps_per_epoch=steps_per_epoch, total_steps=int(total_steps)),
        accumulate=trainer.accumulate,
        clip_norm=trainer.clip_norm,
        max_skipped_in_a_row=trainer.max_skipped_in_a_row,
        processes=processes,
        divided=divided,
        repeated=[name for name, _ in classifier.named_parameters(prefix="classifier") if name not in divided],
    )
    share = Shard.of(trainer.batch_size, processes.rank, processes.count)
    loader = TrainingLoader(
        source=training,
        sampler=SAMPLERS.build(config.sampler, labels=training.labels, batch_size=trainer.batch_size),
        augmentation=AUGMENTATIONS.build(config.augment),
        batch_size=trainer.batch_size,
        seed=config.seed,
        workers=workers.value,
        pin_memory=device.value.type == "cuda",
        rows=slice(share.first, share.last),
        on_corrupt=trainer.on_corrupt,
        device_augmentation=None
        if config.device_augment is None
        else DEVICE_AUGMENTATIONS.build(config.device_augment),
    )
    corrupt_images: CorruptImagesFile | None = None
    if trainer.on_corrupt != "error":
        corrupt_images = CorruptImagesFile(folder.corrupt_images, loader.corrupt, processes)
        held_out = None if held_out is None else ReadableSource(held_out, loader.corrupt)
    run = Run(
        config=config,
        folder=folder,
        processes=processes,
        rows=slice(share.first, share.last),
        device=device.value,
        precision=precision.value,
        memory_format=memory_format,
        backbone=backbone,
        network=backbone,
        classifier=classifier,
        optimization=optimization,
        preprocessing=Preprocessing(),
        source=training,
        held_out=held_out,
        total_steps=int(total_steps),
        steps_per_epoch=steps_per_epoch,
        logbook=Logbook([]),
        state=TrainingState(),
    )
    if checkpoint is not None:
        run.restore(checkpoint)
    observers = _observers(config, held_out, corrupt_images, processes.rank == 0)
    if processes.rank == 0:
        progress = ProgressLine(console, config.log.progress, run.state.step, run.total_steps)
        run.logbook = _logbook(config, folder, run.state.step, progress)
        observers.insert(0, progress)
    return Prepared(run, loader, observers)


def _prepare_source(source: Preparable, images: int, workers: int, console: Console) -> None:
    began = time.monotonic()
    log.info("preparing %s images, those that no earlier run has prepared", f"{images:,}")
    with progress_bar("preparing images", images, console, shown=console.is_terminal) as advance:
        made = source.prepare(workers, advance)
    if made:
        log.info("prepared %s images in %.0f s; they are kept for later runs", f"{made:,}", time.monotonic() - began)


def _logbook(config: TrainConfig, folder: RunFolder, step: int, progress: ProgressLine) -> Logbook:
    loggers: list[Logger] = [JsonLines(folder.metrics, step), progress]
    if config.log.tensorboard:
        loggers.append(TensorBoard(folder.tensorboard, step))
    return Logbook(loggers)


def _observers(
    config: TrainConfig, held_out: Source | None, corrupt_images: CorruptImagesFile | None, first: bool
) -> list[Observer]:
    """Those of one process; all but the pictures of the `first` one must be told of the same steps everywhere."""
    observers: list[Observer] = [Scalars(config.log.every_steps, corrupt_images)]
    pictures_every_epochs = config.log.pictures_every_epochs if config.log.tensorboard else None
    if pictures_every_epochs is not None and first:
        observers.append(Pictures(pictures_every_epochs))
    if held_out is not None:
        observers.append(
            Validation(
                held_out,
                config.validation.pairs,
                config.seed,
                config.validation.every_epochs,
                config.checkpoint.metric,
                pictures_every_epochs,
            )
        )
    observers.append(Checkpointing())
    return observers


def _data_line(training: Source, held_out: Source | None) -> str:
    line = f"training on {len(training):,} images of {len(training.classes):,} identities"
    if held_out is None:
        return f"{line}; none held out (validation.fraction=0)"
    return f"{line}; validating on {len(held_out):,} images of {len(held_out.classes):,} held-out identities"


def run_folder_for(config: TrainConfig) -> RunFolder:
    """The folder that the run writes to: the resumed run's own, `run_dir`, or a new one.

    Raises:
        FrtrainError: it cannot be written.
    """
    if config.resume not in ("auto", "never"):
        return RunFolder.create(config.runs, config.name, str(run_folder_of(config.resume)))
    return RunFolder.create(config.runs, config.name, config.run_dir)
