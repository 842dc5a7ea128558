"""A backbone without batch norm: neither the number of processes nor the size of a batch changes what it computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from frtrain.backbones import BACKBONES
from frtrain.backbones.base import Backbone
from frtrain.registry import Entry


class PlainBackbone(Backbone):
    """Pooled pixels, dropout and a linear layer; takes the parameters of the backbone whose name it replaces."""

    def __init__(self, embedding_size: int, dropout: float, **of_another: Any):
        super().__init__()
        self.embedding_size = embedding_size
        self.layers = nn.Sequential(nn.AvgPool2d(28), nn.Flatten(), nn.Dropout(dropout), nn.Linear(48, embedding_size))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


class _Loose(Entry[Backbone]):
    """Accepts the parameters of `iresnet_tiny`, so that one set of overrides serves both backbones."""

    def schema(self, given: frozenset[str] = frozenset()) -> Any:
        return BACKBONES.get("iresnet_tiny").schema(given)


PLAIN_ENTRY = _Loose("plain", (), PlainBackbone)
"""For the registry, under the name `plain`."""
