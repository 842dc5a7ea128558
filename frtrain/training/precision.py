"""What a chosen precision means: of the backbone's autocast, of the weights, and whether gradients need a scaled loss."""

from __future__ import annotations

import torch
from torch import nn

from frtrain.errors import ConfigError
from frtrain.training.hardware import Choice


def autocast_dtype(precision: Choice[torch.dtype | None]) -> torch.dtype | None:
    """That the backbone's convolutions and matrix products are cast to; None: they compute as the weights are."""
    return precision.value if precision.value in (torch.bfloat16, torch.float16) else None


def weight_dtype(precision: Choice[torch.dtype | None]) -> torch.dtype:
    """Of weights, optimizer, embeddings and loss: float64 if that was chosen, else float32."""
    return torch.float64 if precision.value == torch.float64 else torch.float32


def needs_scaling(precision: Choice[torch.dtype | None]) -> bool:
    """Whether small gradients would vanish: float16 has no number between 0 and 6e-8."""
    return precision.value == torch.float16


def check_precision(precision: Choice[torch.dtype | None], device: torch.device) -> None:
    """See that this device, with this build of torch, trains in the chosen precision.

    Raises:
        ConfigError: it does not.
    """
    if precision.value == torch.float64 and device.type == "mps":
        raise ConfigError("trainer.precision=fp64: Apple's GPUs have no float64; use trainer.device=cpu")
    if precision.value == torch.float16 and device.type != "cuda":
        try:
            _try_out(torch.float16, device)
        except RuntimeError as error:
            raise ConfigError(
                f"trainer.precision=fp16: torch {torch.__version__} does not compute in it on {device.type} here "
                f"({str(error).splitlines()[0]}); use bf16 or fp32"
            ) from None


def _try_out(dtype: torch.dtype, device: torch.device) -> None:
    """A step of a tiny network.

    Raises:
        RuntimeError: an operation is missing.
    """
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(), nn.Flatten(), nn.Linear(16, 2)).to(
        device
    )
    with torch.autocast(device.type, dtype=dtype):
        network(torch.ones(2, 3, 4, 4, device=device)).float().sum().backward()
