"""Models that learned nothing: what a number has to be compared with."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from frtrain.data.preprocessing import Preprocessing
from frtrain.registry import Registry


class Embedder(Protocol):
    """A model as an evaluation sees it. `frtrain.deploy.embedder.load_embedder` returns trained ones.

    Attributes:
        preprocessing: what crops it expects.
        description: what it is, in one line.
        fingerprint: short text that changes with the weights: embeddings that are kept belong to one.
    """

    preprocessing: Preprocessing
    description: str

    @property
    def fingerprint(self) -> str: ...  # noqa: D102 (see the class)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """`uint8 [B, 3, H, W]` RGB -> `float32 [B, d]`."""
        ...


REFERENCES: Registry[Embedder] = Registry("model")


@REFERENCES.register("pixels")
class PixelEmbedder:
    """The crop itself: grey, 28x28, its mean removed. Cosine of two of them is the correlation of two small pictures.

    Grey is ITU-R BT.601 luma; the reduction averages 4x4 pixels of a 112x112 crop.
    """

    def __init__(self) -> None:
        self.preprocessing = Preprocessing()
        self.description = "pixels (grey 28x28, mean removed; nothing learned)"
        self.fingerprint = "pixels"

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """`uint8 [B, 3, 112, 112]` -> `float32 [B, 784]`."""
        luma = torch.tensor([0.299, 0.587, 0.114], device=images.device)
        grey = torch.einsum("bchw,c->bhw", images.to(torch.float32), luma)
        small = F.adaptive_avg_pool2d(grey, 28).flatten(1)
        return small - small.mean(1, keepdim=True)
