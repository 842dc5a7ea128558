"""Checks of a configuration that need nothing large to be built."""

from __future__ import annotations

import torch

from frtrain.auxiliary import AUXILIARIES
from frtrain.backbones import BACKBONES
from frtrain.classifier import CLASSIFIERS
from frtrain.config import TrainConfig
from frtrain.data import SOURCES
from frtrain.data.augmentation import AUGMENTATIONS
from frtrain.data.device_augmentation import DEVICE_AUGMENTATIONS
from frtrain.data.samplers import SAMPLERS
from frtrain.errors import ConfigError
from frtrain.evaluation import SUITES
from frtrain.losses import LOSSES
from frtrain.modifiers import modified
from frtrain.processes import Processes
from frtrain.training.hardware import choose_device
from frtrain.training.observers.validation import metric_names
from frtrain.training.optimization import OPTIMIZERS, parameter_groups
from frtrain.training.schedule import SCHEDULERS


def check_components(config: TrainConfig) -> None:
    """Check every component's name, parameters and bounds, without building anything large.

    Raises:
        ConfigError: naming the key.
        DataError: a file that the suite needs is missing.
    """
    SOURCES.check(config.data)
    SAMPLERS.check(config.sampler, "labels", "batch_size")
    AUGMENTATIONS.build(config.augment)
    if config.device_augment is not None:
        DEVICE_AUGMENTATIONS.build(config.device_augment)
    with torch.device("meta"):  # checks the shape without allocating it
        BACKBONES.build(config.backbone)
    modified(LOSSES.build(config.loss), config.modifiers)
    if config.auxiliary is not None:
        AUXILIARIES.build(config.auxiliary)
    CLASSIFIERS.check(config.classifier, "head", "classes", "embedding_size", "processes")
    OPTIMIZERS.build(config.optimizer, groups=parameter_groups({"probe": torch.nn.Linear(1, 1)}))
    SCHEDULERS.build(config.scheduler, steps_per_epoch=1.0, total_steps=1)
    _check_processes(config, Processes.current().count, choose_device(config.trainer.device).value)
    if config.checkpoint.metric not in metric_names():
        raise ConfigError(
            f"checkpoint.metric={config.checkpoint.metric}: no such metric (known: {', '.join(metric_names())})"
        )
    if config.suite is not None:
        SUITES.build(config.suite).check()


def _check_processes(config: TrainConfig, count: int, device: torch.device) -> None:
    trainer = config.trainer
    if trainer.batch_size < 2 * count:
        raise ConfigError(
            f"trainer.batch_size={trainer.batch_size}: is shared by {count} processes, and batch norm needs two images in "
            f"each; use {2 * count} or more, or fewer processes"
        )
    if count > 1 and device.type not in ("cpu", "cuda"):
        raise ConfigError(f"trainer.device={trainer.device}: several processes train on CPUs or CUDA devices")
    if trainer.sync_batch_norm and count > 1 and device.type == "cpu":
        raise ConfigError("trainer.sync_batch_norm=true: torch has it for GPUs only; on CPUs use false")
