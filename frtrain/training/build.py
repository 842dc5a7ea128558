"""From a configuration to a run, with every check that can be made before the first step."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from frtrain.backbones import BACKBONES
from frtrain.classifier import CLASSIFIERS
from frtrain.config import TrainConfig
from frtrain.data import SOURCES
from frtrain.data.augmentation import AUGMENTATIONS
from frtrain.data.loader import TrainingLoader
from frtrain.data.preprocessing import Preprocessing
from frtrain.data.source import Preparable, Source
from frtrain.data.subset import check_source, hold_out_identities
from frtrain.errors import ConfigError
from frtrain.evaluation import SUITES
from frtrain.losses import LOSSES
from frtrain.training.checkpoint import Checkpoint
from frtrain.training.hardware import (
    choose_channels_last,
    choose_device,
    choose_precision,
    choose_threads,
    choose_workers,
)
from frtrain.training.logbook import JsonLines, Logbook, Logger, TensorBoard
from frtrain.training.observers.base import Observer
from frtrain.training.observers.checkpointing import Checkpointing
from frtrain.training.observers.pictures import Pictures
from frtrain.training.observers.progress import ProgressLine
from frtrain.training.observers.scalars import Scalars
from frtrain.training.observers.validation import Validation, metric_names
from frtrain.training.optimization import OPTIMIZERS, Optimization, parameter_groups
from frtrain.training.resume import check_same_data
from frtrain.training.run import Run
from frtrain.training.run_folder import RunFolder, run_folder_of
from frtrain.training.schedule import SCHEDULERS
from frtrain.training.state import TrainingState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run, and what the loop needs besides it."""

    run: Run
    loader: TrainingLoader
    observers: list[Observer]


def check_components(config: TrainConfig) -> None:
    """Check every component's name, parameters and bounds, without building anything large.

    Raises:
        ConfigError: naming the key.
        DataError: a file that the suite needs is missing.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError(f"WORLD_SIZE={processes}: this version trains in one process; start it without torchrun")
    SOURCES.check(config.data)
    AUGMENTATIONS.build(config.augment)
    with torch.device("meta"):  # checks the shape without allocating it
        BACKBONES.build(config.backbone)
    LOSSES.build(config.loss)
    CLASSIFIERS.check(config.classifier, "head", "classes", "embedding_size")
    OPTIMIZERS.build(config.optimizer, groups=parameter_groups({"probe": torch.nn.Linear(1, 1)}))
    SCHEDULERS.build(config.scheduler, steps_per_epoch=1.0, total_steps=1)
    choose_device(config.trainer.device)
    if config.checkpoint.metric not in metric_names():
        raise ConfigError(
            f"checkpoint.metric={config.checkpoint.metric}: no such metric (known: {', '.join(metric_names())})"
        )
    if config.suite is not None:
        SUITES.build(config.suite).check()


def prepare(config: TrainConfig, folder: RunFolder, checkpoint: Checkpoint | None, console: Console) -> Prepared:
    """Build all parts of a run, restored to `checkpoint` if there is one.

    Raises:
        ConfigError, DataError, CheckpointError: what does not fit, by key, file or tensor.
    """
    trainer = config.trainer
    device = choose_device(trainer.device)
    precision = choose_precision(trainer.precision, device.value)
    channels_last = choose_channels_last(trainer.channels_last, device.value)
    workers = choose_workers(trainer.workers, device.value)
    threads = choose_threads(workers.value)
    torch.set_num_threads(threads.value)
    for what, choice in (
        ("device", device),
        ("precision", precision),
        ("channels_last", channels_last),
        ("loader workers", workers),
        ("threads", threads),
    ):
        value = str(choice.value if choice.value is not None else torch.float32).removeprefix("torch.")
        log.info("%s %s: %s", what, value, choice.reason)

    source = SOURCES.build(config.data)
    check_source(source)
    if isinstance(source, Preparable):
        _prepare_source(source, len(source), threads.value, console)
    training, held_out = hold_out_identities(source, config.validation.fraction, config.seed)
    if checkpoint is not None:
        check_same_data(checkpoint, training)
    log.info("%s", _data_line(training, held_out))

    torch.manual_seed(config.seed)
    memory_format = torch.channels_last if channels_last.value else torch.contiguous_format
    backbone = BACKBONES.build(config.backbone).to(device.value).to(memory_format=memory_format)
    classifier = CLASSIFIERS.build(
        config.classifier,
        head=LOSSES.build(config.loss),
        classes=len(training.classes),
        embedding_size=int(backbone.embedding_size),
    ).to(device.value)

    images_per_step = trainer.batch_size * trainer.accumulate
    steps_per_epoch = len(training) / images_per_step
    total_steps = min(
        math.ceil(trainer.epochs * steps_per_epoch - 1e-9) if trainer.epochs is not None else trainer.max_steps or 0,
        trainer.max_steps or math.inf,
    )
    modules = {"backbone": backbone, "classifier": classifier}
    optimization = Optimization(
        modules=modules,
        optimizer=OPTIMIZERS.build(config.optimizer, groups=parameter_groups(modules)),
        schedule=SCHEDULERS.build(config.scheduler, steps_per_epoch=steps_per_epoch, total_steps=int(total_steps)),
        accumulate=trainer.accumulate,
        clip_norm=trainer.clip_norm,
        max_skipped_in_a_row=trainer.max_skipped_in_a_row,
    )
    run = Run(
        config=config,
        folder=folder,
        device=device.value,
        precision=precision.value,
        memory_format=memory_format,
        backbone=backbone,
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
    observers = _observers(config, held_out)
    progress = ProgressLine(console, config.log.progress, run.state.step, run.total_steps)
    run.logbook = _logbook(config, folder, run.state.step, progress)
    loader = TrainingLoader(
        source=training,
        augmentation=AUGMENTATIONS.build(config.augment),
        batch_size=trainer.batch_size,
        seed=config.seed,
        workers=workers.value,
        pin_memory=device.value.type == "cuda",
    )
    return Prepared(run, loader, [progress, *observers])


def _prepare_source(source: Preparable, images: int, workers: int, console: Console) -> None:
    began = time.monotonic()
    log.info("preparing %s images, those that no earlier run has prepared", f"{images:,}")
    with Progress(
        TextColumn("preparing images"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=images)
        made = source.prepare(workers, lambda count: bar.advance(task, count))
    if made:
        log.info("prepared %s images in %.0f s; they are kept for later runs", f"{made:,}", time.monotonic() - began)


def _logbook(config: TrainConfig, folder: RunFolder, step: int, progress: ProgressLine) -> Logbook:
    loggers: list[Logger] = [JsonLines(folder.metrics, step), progress]
    if config.log.tensorboard:
        loggers.append(TensorBoard(folder.tensorboard, step))
    return Logbook(loggers)


def _observers(config: TrainConfig, held_out: Source | None) -> list[Observer]:
    observers: list[Observer] = [Scalars(config.log.every_steps)]
    pictures_every_epochs = config.log.pictures_every_epochs if config.log.tensorboard else None
    if pictures_every_epochs is not None:
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
