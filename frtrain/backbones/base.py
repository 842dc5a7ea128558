"""The contract of a backbone, and the neck that turns a feature map into an embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
from annotated_types import Interval
from torch import nn

from frtrain.registry import Registry

EmbeddingSize = Annotated[int, Interval(gt=0, le=16384)]

CROP_SIZE = 112
"""Height and width, in pixels, of the aligned crop that every backbone is built for."""


class Backbone(nn.Module, ABC):
    """A network from crops, `float32 [B, 3, 112, 112]` in [-1, 1], to embeddings `[B, embedding_size]`, not normalised.

    Attributes:
        embedding_size: length d of the embedding.
    """

    embedding_size: int

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed a batch of crops."""

    def blocks(self) -> list[nn.Module]:
        """What is recomputed, or divided among GPUs, as one: the parts of the stages, from first to last.

        Each takes one tensor and gives one, and none is part of another. By default the children of every `nn.Sequential`
        that is a child of the network.
        """
        return [block for stage in self.children() if isinstance(stage, nn.Sequential) for block in stage]


BACKBONES: Registry[Backbone] = Registry("backbone")


class ConvolutionalBackbone(Backbone):
    """A convolutional trunk and ArcFace's neck: BN - dropout - flatten - linear - BN (Deng et al. 2019, "option E").

    The neck computes in float32 outside autocast: the embedding of a bf16 trunk is not rounded to three digits.
    The last BN has its weight fixed to one, so that the embedding's scale is not learned twice. The attributes carry
    the names of the InsightFace checkpoints (`bn2`, `fc`, `features`), whose weights therefore load as they are.

    Args:
        channels: channels of the trunk's feature map.
        map_size: its height and width for a 112×112 crop.
        embedding_size: length d of the embedding.
        dropout: probability of a zeroed element of the feature map, while training.
    """

    def __init__(self, channels: int, map_size: int, embedding_size: int, dropout: float):
        super().__init__()
        self.embedding_size = embedding_size
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * map_size**2, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        self.features.weight.requires_grad_(False)

    @abstractmethod
    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """`[B, 3, 112, 112]` -> feature map `[B, channels, map_size, map_size]`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`float32 [B, 3, 112, 112]` in [-1, 1] -> embedding `float32 [B, embedding_size]`, not normalised."""
        feature_map = self.trunk(images)
        if feature_map.dtype == self.fc.weight.dtype:
            return self._neck(feature_map)
        with torch.autocast(images.device.type, enabled=False):
            return self._neck(feature_map.to(self.fc.weight.dtype))

    def _neck(self, feature_map: torch.Tensor) -> torch.Tensor:
        return self.features(self.fc(self.dropout(self.bn2(feature_map)).flatten(1)))
