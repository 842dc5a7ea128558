"""The first class centres: random, and the same whichever processes hold them."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 4096
"""Rows that are drawn from one generator."""


def first_centres(first: int, last: int, embedding_size: int, init_std: float, seed: int) -> Tensor:
    """Rows `first` to `last` (exclusive) of N(0, init_std), `float32 [last - first, d]`.

    Each block of `ROWS` rows has a generator of its own, so a row does not depend on which others are asked for.
    """
    rows = torch.empty(last - first, embedding_size)
    for block in range(first // ROWS, -(-last // ROWS)):
        start = block * ROWS
        generator = torch.Generator().manual_seed((seed + block) % 2**63)
        drawn = torch.empty(ROWS, embedding_size).normal_(std=init_std, generator=generator)
        begin, end = max(first, start), min(last, start + ROWS)
        rows[begin - first : end - first] = drawn[begin - start : end - start]
    return rows


def draw_seed() -> int:
    """A seed from torch's global generator, which a run seeds."""
    return int(torch.randint(2**63 - 1, ()))
