"""A trained model as its users see it: crops in, embeddings out."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from frtrain.backbones import BACKBONES
from frtrain.data.preprocessing import Preprocessing
from frtrain.errors import CheckpointError, ConfigError
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.restoring import restore_part
from frtrain.training.run_folder import checkpoint_of
from frtrain.training.shards import collected
from frtrain.training.weight_average import UPDATES


class Embedder:
    """A backbone with its preprocessing, in evaluation mode and the precision of its weights: float32, but for proofs.

    Args:
        backbone: crop to embedding.
        preprocessing: what it was trained with.
        device: where it runs.
        description: for reports.
    """

    def __init__(self, backbone: nn.Module, preprocessing: Preprocessing, device: torch.device, description: str):
        # channels_last is the faster layout for convolutions on current CPUs and GPUs alike.
        self.backbone = backbone.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        self._dtype = next((weight.dtype for weight in self.backbone.parameters()), torch.float32)
        self.preprocessing = preprocessing
        self.device = device
        self.description = description

    @cached_property
    def fingerprint(self) -> str:
        """Of weights and preprocessing: another training in the same place, of as many steps, has another."""
        digest = hashlib.sha256(repr(self.preprocessing).encode())
        for name, tensor in self.backbone.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings of aligned crops.

        Args:
            images: `uint8 [B, 3, H, W]`, RGB, aligned to the preprocessing's template.

        Returns:
            `float32 [B, d]` on the embedder's device, not normalised.

        Raises:
            ValueError: the images have another type or shape.
        """
        size = self.preprocessing.size
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(f"expected uint8 crops [B, 3, {size}, {size}], got {images.dtype} {list(images.shape)}")
        network_input = self.preprocessing.normalise(images.to(self.device)).to(self._dtype)
        embedding: torch.Tensor = self.backbone(network_input.contiguous(memory_format=torch.channels_last))
        return embedding.float()


Weights = Literal["model", "ema"]
"""Of a checkpoint: those of the last step, or their average (`trainer.ema_decay`)."""


def load_embedder(path: str | Path, device: torch.device, weights: Weights = "model") -> Embedder:
    """Load a trained model.

    Args:
        path: a run folder (its last checkpoint is taken) or a checkpoint folder, e.g. `<run>/checkpoints/best`.
        device: where to run it.
        weights: which of its weights.

    Raises:
        CheckpointError: there is no usable checkpoint, its backbone is unknown to this version, or it has no averaged weights.
    """
    checkpoint, part = StoredCheckpoint.at(checkpoint_of(path)), "backbone" if weights == "model" else "ema"
    if weights == "ema" and part not in checkpoint.parts:
        raise CheckpointError(
            f"{checkpoint.path}: weights=ema, but its run kept no average of the weights (trainer.ema_decay); use weights=model"
        )
    checkpoint.verify((part,))
    try:
        backbone = BACKBONES.build(checkpoint.config["backbone"])
        preprocessing = Preprocessing(**checkpoint.preprocessing)
        if preprocessing.color_order != "RGB":
            raise ConfigError(f"color_order={preprocessing.color_order}: only RGB is known")
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint.path}: its model cannot be rebuilt ({error})") from None
    tensors = dict(backbone.state_dict())
    if weights == "ema":
        tensors[UPDATES] = torch.zeros((), dtype=torch.int64)
    restore_part(checkpoint, part, collected({part: tensors})[part])
    loss, backbone_name = checkpoint.config["loss"]["name"], checkpoint.config["backbone"]["name"]
    description = (
        f"{backbone_name} trained with {loss}, step {checkpoint.state['step']} of {checkpoint.path}, "
        f"{len(checkpoint.classes)} identities{', averaged weights' if weights == 'ema' else ''}"
    )
    return Embedder(backbone, preprocessing, device, description)
