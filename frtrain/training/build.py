"""From a configuration to a run."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import cast

import torch
from rich.console import Console
from torch import nn

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
from frtrain.training.batch_norm import choose_sync_batch_norm, synchronised
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.distributed import all_or_none, shared
from frtrain.training.dropout import place_dropout
from frtrain.training.hardware import (
    choose_channels_last,
    choose_device,
    choose_precision,
    choose_threads,
    choose_workers,
    this_machine,
)
from frtrain.training.length import RunLength
from frtrain.training.logbook import Logbook
from frtrain.training.loggers.choice import logbook_for
from frtrain.training.observers.base import Observer
from frtrain.training.observers.checkpointing import Checkpointing
from frtrain.training.observers.corrupt_images import CorruptImagesFile
from frtrain.training.observers.nonfinite import NonFiniteReports
from frtrain.training.observers.pictures import Pictures
from frtrain.training.observers.profile import Profile
from frtrain.training.observers.progress import ProgressLine
from frtrain.training.observers.scalars import Scalars
from frtrain.training.observers.validation import Validation
from frtrain.training.optimization import Optimization
from frtrain.training.optimizers import batch_sentence, build_optimizer
from frtrain.training.parallel import averaging
from frtrain.training.precision import autocast_dtype, weight_dtype
from frtrain.training.resume import check_same_data
from frtrain.training.run import Run
from frtrain.training.run_folder import RunFolder, run_folder_of
from frtrain.training.schedule import SCHEDULERS
from frtrain.training.shards import shards_of
from frtrain.training.starting import start_from
from frtrain.training.state import TrainingState
from frtrain.training.step_parts import step_parts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run, and what the loop needs besides it."""

    run: Run
    loader: TrainingLoader
    observers: list[Observer]


def prepare(config: TrainConfig, folder: RunFolder, checkpoint: StoredCheckpoint | None, console: Console) -> Prepared:
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
        run.network = averaging(run.network, config.trainer)
        log.info("%d processes, each with %s of %d images", processes.count, _shares(run), config.trainer.batch_size)
    return prepared


def _shares(run: Run) -> str:
    smaller, more = divmod(run.config.trainer.batch_size, run.processes.count)
    return f"{smaller} or {smaller + 1}" if more else f"{smaller}"


def _build(
    config: TrainConfig, folder: RunFolder, checkpoint: StoredCheckpoint | None, console: Console, processes: Processes
) -> Prepared:
    """What `prepare` does without talking to the other processes."""
    trainer = config.trainer
    device = choose_device(trainer.device)
    precision = choose_precision(trainer.precision, device.value)
    channels_last = choose_channels_last(trainer.channels_last, device.value)
    workers = choose_workers(trainer.workers, device.value)
    threads = choose_threads(workers.value)
    sync_batch_norm = choose_sync_batch_norm(trainer.sync_batch_norm, device.value, processes.count)
    torch.set_num_threads(threads.value)
    if device.value.type == "cuda":
        torch.cuda.set_device(device.value)  # where NCCL works
    for what, choice in (
        ("device", device),
        ("precision", precision),
        ("channels_last", channels_last),
        ("loader workers", workers),
        ("threads", threads),
        ("sync_batch_norm", sync_batch_norm),
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
        check_same_data(checkpoint, training, config.resume_anyway)
    log.info("%s", _data_line(training, held_out))

    torch.manual_seed(config.seed)
    memory_format = torch.channels_last if channels_last.value else torch.contiguous_format
    network = BACKBONES.build(config.backbone)
    embedding_size, backbone = network.embedding_size, cast(nn.Module, network)
    dropout_position = place_dropout(backbone, config.seed, device.value)
    if sync_batch_norm.value:
        backbone = synchronised(backbone, processes, device.value)
    backbone.to(device.value, weight_dtype(precision)).to(memory_format=memory_format)
    parts = step_parts(backbone, trainer, precision, device.value)
    if trainer.parallel == "fsdp" and processes.count > 1:
        from frtrain.training.fully_sharded import fully_sharded

        for divided_network in (backbone, *([parts.average.module] if parts.average is not None else [])):
            fully_sharded(divided_network, device.value)
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
    classifier.compiled = trainer.compile_classifier
    classifier.to(device.value, weight_dtype(precision))

    length = RunLength.of(trainer, len(training))
    modules = {"backbone": backbone, "classifier": classifier}
    log.info("%s", batch_sentence(config.optimizer, processes.count, trainer.batch_size, trainer.accumulate))
    divided = shards_of(classifier)
    optimization = Optimization(
        modules=modules,
        optimizer=build_optimizer(config.optimizer, modules, length.images_per_step),
        schedule=SCHEDULERS.build(config.scheduler, length=length),
        accumulate=trainer.accumulate,
        clip_norm=trainer.clip_norm,
        max_skipped_in_a_row=trainer.max_skipped_in_a_row,
        processes=processes,
        divided=divided,
        repeated=[name for name, _ in classifier.named_parameters(prefix="classifier") if name not in divided],
        scaler=parts.scaler,
        average=parts.average,
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
        precision=autocast_dtype(precision),
        dtype=weight_dtype(precision),
        memory_format=memory_format,
        backbone=backbone,
        network=parts.network,
        classifier=classifier,
        optimization=optimization,
        preprocessing=Preprocessing(),
        source=training,
        held_out=held_out,
        total_steps=length.steps,
        steps_per_epoch=length.steps_per_epoch,
        logbook=Logbook([]),
        state=TrainingState(),
        dropout_position=dropout_position,
        further=dict(parts.further),
    )
    if checkpoint is not None:
        run.restore(checkpoint)
    else:
        start_from(run)
    observers = _observers(config, held_out, corrupt_images, processes.rank == 0)
    observers.insert(0, NonFiniteReports(loader.order))
    if trainer.profile and processes.rank == 0:
        observers.insert(0, Profile())
    if processes.rank == 0:
        progress = ProgressLine(console, config.log.progress, run.state.step, run.total_steps)
        run.logbook = logbook_for(config, folder, run.state.step, progress)
        observers.insert(0, progress)
    return Prepared(run, loader, observers)


def _prepare_source(source: Preparable, images: int, workers: int, console: Console) -> None:
    began = time.monotonic()
    log.info("preparing %s images, those that no earlier run has prepared", f"{images:,}")
    with progress_bar("preparing images", images, console, shown=console.is_terminal) as advance:
        made = source.prepare(workers, advance)
    if made:
        log.info("prepared %s images in %.0f s; they are kept for later runs", f"{made:,}", time.monotonic() - began)


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
