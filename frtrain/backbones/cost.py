"""What a backbone costs: parameters, and multiply-accumulates per crop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frtrain.backbones.base import BACKBONES, CROP_SIZE


@dataclass(frozen=True)
class Cost:
    """The size of a backbone.

    Attributes:
        parameters: numbers in all parameters, frozen ones included (as the ArcFace tables count); buffers are not.
        multiply_accumulates: of the convolutions and matrix products, for the forward pass of one 112×112 crop.
    """

    parameters: int
    multiply_accumulates: int


def cost(backbone: nn.Module) -> Cost:
    """Count a backbone's parameters and multiply-accumulates by running it on one crop, on its own device.

    A backbone on the `meta` device is counted without computing anything.
    """
    parameters = list(backbone.parameters())
    crop = torch.zeros(1, 3, CROP_SIZE, CROP_SIZE, device=parameters[0].device)
    was_training = backbone.training
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone.eval()(crop)
    finally:
        backbone.train(was_training)
    return Cost(sum(parameter.numel() for parameter in parameters), counter.get_total_flops() // 2)


def cost_of(spec: Mapping[str, Any]) -> Cost:
    """The cost of the backbone that a configuration node describes, without allocating its weights.

    Raises:
        ConfigError: as `Registry.build`.
    """
    with torch.device("meta"):
        return cost(BACKBONES.build(spec))
