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
from frtrain.training.length import RunLength
from frtrain.training.loggers.choice import check_loggers
from frtrain.training.observers.validation import metric_names
from frtrain.training.optimizers import build_optimizer, check_momentum
from frtrain.training.parallel import check_parallel, check_shares
from frtrain.training.schedule import SCHEDULERS
from frtrain.training.starting import check_start
from frtrain.training.step_parts import check_step


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
    length = RunLength.of(config.trainer, images=1)
    optimizer = build_optimizer(config.optimizer, {"backbone": torch.nn.Linear(1, 1)}, length.images_per_step)
    check_momentum(optimizer, SCHEDULERS.build(config.scheduler, length=length))
    check_parallel(config.trainer)
    _check_processes(config, Processes.current().count, choose_device(config.trainer.device).value)
    check_step(config)
    if config.checkpoint.metric not in metric_names():
        raise ConfigError(
            f"checkpoint.metric={config.checkpoint.metric}: no such metric (known: {', '.join(metric_names())})"
        )
    if config.validation.patience is not None and config.validation.fraction == 0:
        raise ConfigError(
            "validation.patience: an early stop needs validations, but validation.fraction=0 holds nobody out; use a fraction "
            "above 0, or validation.patience=null"
        )
    check_loggers(config.log)
    check_start(config)
    if config.suite is not None:
        SUITES.build(config.suite).check()


def _check_processes(config: TrainConfig, count: int, device: torch.device) -> None:
    trainer = config.trainer
    check_shares(trainer.batch_size, count)
    if count > 1 and device.type not in ("cpu", "cuda"):
        raise ConfigError(f"trainer.device={trainer.device}: several processes train on CPUs or CUDA devices")
