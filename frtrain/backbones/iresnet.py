"""IResNet: the residual networks of ArcFace and of nearly every result table since."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import nn

from frtrain.backbones.base import BACKBONES, CROP_SIZE, ConvolutionalBackbone, EmbeddingSize
from frtrain.schema import FractionBelowOne, PositiveInt

Activation = Literal["prelu", "relu"]
Stride = Literal[1, 2]
Width = Annotated[int, Ge(16)]  # torch 2.15 on a CPU crashes in the backward of narrower strided convolutions


def _activation(name: Activation, channels: int) -> nn.Module:
    return nn.PReLU(channels) if name == "prelu" else nn.ReLU(inplace=True)


class IResBlock(nn.Module):
    """The improved residual unit ("IR"): BN - conv3x3 - BN - PReLU - conv3x3(stride) - BN, plus the shortcut.

    `[B, inputs, H, W] -> [B, outputs, H/stride, W/stride]`. The shortcut is the identity, or conv1x1(stride) - BN where
    the shape changes; nothing follows the sum. (Han et al. 2017, "Deep Pyramidal Residual Networks", removed the first
    activation; Deng et al. 2019, arXiv 1801.07698, brought it to faces.)
    """

    def __init__(self, inputs: int, outputs: int, stride: int, activation: Activation):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = _activation(activation, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Residual plus shortcut."""
        residual = self.prelu(self.bn2(self.conv1(self.bn1(values))))
        residual = self.bn3(self.conv2(residual))
        return residual + (values if self.downsample is None else self.downsample(values))


class IResNet(ConvolutionalBackbone):
    """Stem conv3x3 - BN - PReLU, one stage of IR blocks per width, and the neck.

    Module names and shapes are those of the InsightFace checkpoints of the same depth.

    Initial values, as in the InsightFace recipe: convolutions from N(0, 0.1) (a BN after each makes their scale
    irrelevant to the forward pass), BN weight 1 and bias 0, PReLU slope 0.25, the linear layer as torch has it
    (uniform within 1/sqrt(inputs)).

    Args:
        blocks: blocks per stage.
        widths: channels per stage; the stem has those of the first.
        strides: stride of each stage's first block, 1 or 2.
        stem_stride: 1 keeps the stem at 112×112; 2 quarters the cost of everything up to the next stride.
        activation: `prelu` as published, or `relu`, which trains faster on a CPU.
        embedding_size: length of the embedding.
        dropout: see `ConvolutionalBackbone`.

    Raises:
        ValueError: the lists are empty, or differ in length.
    """

    def __init__(
        self,
        *,
        blocks: list[int],
        widths: list[int],
        strides: list[Stride],
        stem_stride: Stride,
        activation: Activation,
        embedding_size: int,
        dropout: float,
    ):
        if not blocks or not len(blocks) == len(widths) == len(strides):
            raise ValueError(f"blocks={blocks}, widths={widths} and strides={strides} must have one number per stage")
        map_size = CROP_SIZE
        for stride in (stem_stride, *strides):
            map_size = (map_size + stride - 1) // stride
        super().__init__(widths[-1], map_size, embedding_size, dropout)
        self.conv1 = nn.Conv2d(3, widths[0], 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = _activation(activation, widths[0])
        self.stage_names = [f"layer{number}" for number in range(1, len(widths) + 1)]
        inputs = widths[0]
        for name, depth, outputs, stride in zip(self.stage_names, blocks, widths, strides, strict=True):
            first = IResBlock(inputs, outputs, stride, activation)
            rest = [IResBlock(outputs, outputs, 1, activation) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            inputs = outputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """`[B, 3, 112, 112]` -> feature map `[B, widths[-1], map_size, map_size]` (7×7 for the standard depths)."""
        values = self.prelu(self.bn1(self.conv1(images)))
        for name in self.stage_names:
            values = self.get_submodule(name)(values)
        return values


def _standard(blocks: list[int], embedding_size: int, dropout: float) -> IResNet:
    return IResNet(
        blocks=blocks,
        widths=[64, 128, 256, 512],
        strides=[2, 2, 2, 2],
        stem_stride=1,
        activation="prelu",
        embedding_size=embedding_size,
        dropout=dropout,
    )


@BACKBONES.register("iresnet18")
def iresnet18(embedding_size: EmbeddingSize, dropout: FractionBelowOne) -> IResNet:
    """IResNet-18: 24.03 M parameters at embedding size 512."""
    return _standard([2, 2, 2, 2], embedding_size, dropout)


@BACKBONES.register("iresnet34")
def iresnet34(embedding_size: EmbeddingSize, dropout: FractionBelowOne) -> IResNet:
    """IResNet-34: 34.14 M parameters at embedding size 512."""
    return _standard([3, 4, 6, 3], embedding_size, dropout)


@BACKBONES.register("iresnet50")
def iresnet50(embedding_size: EmbeddingSize, dropout: FractionBelowOne) -> IResNet:
    """IResNet-50: 43.59 M parameters at embedding size 512."""
    return _standard([3, 4, 14, 3], embedding_size, dropout)


@BACKBONES.register("iresnet100")
def iresnet100(embedding_size: EmbeddingSize, dropout: FractionBelowOne) -> IResNet:
    """IResNet-100: 65.16 M parameters at embedding size 512."""
    return _standard([3, 13, 30, 3], embedding_size, dropout)


@BACKBONES.register("iresnet200")
def iresnet200(embedding_size: EmbeddingSize, dropout: FractionBelowOne) -> IResNet:
    """IResNet-200: 118.83 M parameters at embedding size 512."""
    return _standard([6, 26, 60, 6], embedding_size, dropout)


@BACKBONES.register("iresnet_tiny")
def iresnet_tiny(
    widths: list[Width],
    blocks: list[PositiveInt],
    strides: list[Stride],
    stem_stride: Stride,
    activation: Activation,
    embedding_size: EmbeddingSize,
    dropout: FractionBelowOne,
) -> IResNet:
    """An IResNet of free shape, small by default: made to be trained from nothing on a few CPU cores."""
    return IResNet(
        blocks=blocks,
        widths=widths,
        strides=strides,
        stem_stride=stem_stride,
        activation=activation,
        embedding_size=embedding_size,
        dropout=dropout,
    )
