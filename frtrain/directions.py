"""The direction of a vector, and when it has none."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 1e-6
"""A vector shorter than this has no direction: cosine 0 to everything, and no gradient.

Dividing by a tiny length instead would send a gradient of that size, reversed, into the backbone.
"""


def inverse_length(vectors: Tensor) -> Tensor:
    """1 / |v| of each row, `[n, d] -> [n]` (or `[..., d] -> [...]`); 0 for rows shorter than `SHORTEST`."""
    length = torch.linalg.vector_norm(vectors, dim=-1)
    return torch.where(length > SHORTEST, 1 / length.clamp(min=SHORTEST), 0.0)
