"""What a network expects of its input. Part of the model: stored with it, re-applied wherever it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Preprocessing:
    """From aligned `uint8` RGB crops to the network's input: `(pixel - mean) / std`.

    Attributes:
        size: height and width of the crop in pixels.
        mean, std: in pixel units (0..255), one value for all channels.
        color_order: order of the channels.
        template: name of the five-point template that crops are aligned to (`frtrain.alignment.transform`).
    """

    size: int = 112
    mean: float = 127.5
    std: float = 127.5
    color_order: str = "RGB"
    template: str = "arcface_112"

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """`uint8 [B, 3, H, W]` on any device -> `float32` of the same shape, in [-1, 1] for the defaults."""
        return (images.to(torch.float32) - self.mean) / self.std

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint's JSON."""
        return asdict(self)
