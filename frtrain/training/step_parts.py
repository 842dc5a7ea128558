"""What is put around backbone and optimizer: compiler, activation checkpointing, loss scale, averaged weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from frtrain.backbones.base import Backbone
from frtrain.config import TrainConfig, TrainerConfig
from frtrain.errors import ConfigError
from frtrain.training.activation_checkpointing import recompute_in_backward
from frtrain.training.compilation import check_compiler, compiled
from frtrain.training.hardware import Choice, choose_device, choose_precision
from frtrain.training.loss_scale import LossScale
from frtrain.training.precision import check_precision, needs_scaling
from frtrain.training.weight_average import WeightAverage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepParts:
    """What a step needs besides backbone, classifier and optimizer.

    Attributes:
        network: what is trained of the backbone: itself, or compiled.
        scaler: of the loss, or None.
        average: of the backbone's weights, or None.
    """

    network: nn.Module
    scaler: LossScale | None
    average: WeightAverage | None

    @property
    def further(self) -> Mapping[str, LossScale | WeightAverage]:
        """The further parts of a checkpoint, by name."""
        parts = {"scaler": self.scaler, "ema": self.average}
        return {name: part for name, part in parts.items() if part is not None}


def step_parts(
    backbone: nn.Module, trainer: TrainerConfig, precision: Choice[torch.dtype | None], device: torch.device
) -> StepParts:
    """Build them around a backbone that is where it is to stay, in device, dtype and memory layout."""
    average = None if trainer.ema_decay is None else WeightAverage(backbone, trainer.ema_decay)
    if trainer.activation_checkpointing and isinstance(backbone, Backbone):
        blocks = backbone.blocks()
        recompute_in_backward(blocks)
        log.info("activation checkpointing: the inside of %d blocks is computed again in backward", len(blocks))
    return StepParts(
        network=compiled(backbone) if trainer.compile else backbone,
        scaler=LossScale(device) if needs_scaling(precision) else None,
        average=average,
    )


def check_step(config: TrainConfig) -> None:
    """What can be known to be wrong with a step before anything is built.

    Raises:
        ConfigError: names the key.
    """
    trainer = config.trainer
    device = choose_device(trainer.device).value
    check_precision(choose_precision(trainer.precision, device), device)
    if config.validation.weights == "ema" and trainer.ema_decay is None:
        raise ConfigError(
            "validation.weights=ema: the run keeps no average of its weights; set trainer.ema_decay=0.9999, say, or use "
            "validation.weights=model"
        )
    for key in ("compile", "compile_classifier"):
        if getattr(trainer, key):
            check_compiler(device.type, f"trainer.{key}")
            torch.compiler.reset()  # a compiler gives up after eight variants, those of a sweep's earlier runs counted
