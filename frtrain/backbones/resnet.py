"""torchvision's ResNets as face backbones: the network of a general vision baseline, with ArcFace's neck."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from frtrain.backbones.base import BACKBONES, ConvolutionalBackbone, EmbeddingSize
from frtrain.schema import FractionBelowOne

if TYPE_CHECKING:
    from torchvision.models import ResNet as TorchvisionResNet


class ResNet(ConvolutionalBackbone):
    """A ResNet trunk (He et al. 2016, arXiv 1512.03385) without its max pool, and ArcFace's neck.

    The 7x7 stride-2 stem stays and the max pool goes: the stages then see a 112×112 crop at the map sizes 56, 28, 14, 7
    that they see a 224×224 photograph at, and every trunk weight keeps torchvision's name and shape.

    Initial values are torchvision's (Kaiming normal, fan out); the neck's as torch has them.

    Args:
        trunk: a torchvision ResNet; its pooling and classifier are dropped.
        embedding_size, dropout: see `ConvolutionalBackbone`.
    """

    def __init__(self, trunk: TorchvisionResNet, embedding_size: int, dropout: float):
        super().__init__(trunk.fc.in_features, 7, embedding_size, dropout)
        self.conv1, self.bn1, self.relu = trunk.conv1, trunk.bn1, trunk.relu
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """`[B, 3, 112, 112]` -> feature map `[B, channels, 7, 7]`."""
        values = self.relu(self.bn1(self.conv1(images)))
        return self.layer4(self.layer3(self.layer2(self.layer1(values))))


@BACKBONES.register("resnet18")
def resnet18(embedding_size: EmbeddingSize, dropout: FractionBelowOne) -> ResNet:
    """ResNet-18 with random weights; nothing is downloaded."""
    import torchvision  # takes two seconds, which other backbones are spared

    return ResNet(torchvision.models.resnet18(weights=None), embedding_size, dropout)


@BACKBONES.register("resnet50")
def resnet50(embedding_size: EmbeddingSize, dropout: FractionBelowOne) -> ResNet:
    """ResNet-50 with random weights; nothing is downloaded."""
    import torchvision  # takes two seconds, which other backbones are spared

    return ResNet(torchvision.models.resnet50(weights=None), embedding_size, dropout)
