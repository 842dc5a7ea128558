"""Random numbers that are a pure function of (seed, step, index), for losses that draw something for each sample.

A generator that keeps a state would give every rank, batch split and resumed run other numbers, or would have to be
kept in step between them. Here nothing is kept: the numbers are a hash of their position, computed on the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """An unsigned 64-bit word as the int64 with the same bits."""
    return word - 2**64 if word >= 2**63 else word


GOLDEN_RATIO = _signed(0x9E3779B97F4A7C15)
FIRST_FACTOR = _signed(0xBF58476D1CE4E5B9)
SECOND_FACTOR = _signed(0x94D049BB133111EB)
WORD = 2**32


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; `>>` would repeat the sign."""
    return (words >> bits) & (2 ** (64 - bits) - 1)


def hashed(words: Tensor) -> Tensor:
    """splitmix64 (Steele, Lea, Flood 2014): neighbouring `int64` words become unrelated ones, same shape.

    The products of int64 tensors wrap around modulo 2^64, which the hash relies on.
    """
    words = words + GOLDEN_RATIO
    words = (words ^ _shifted(words, 30)) * FIRST_FACTOR
    words = (words ^ _shifted(words, 27)) * SECOND_FACTOR
    return words ^ _shifted(words, 31)


def standard_normal(seed: int, step: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Independent draws of N(0, 1), one for each index; the same arguments give the same draws.

    Box-Muller on the two halves of one hash, so no draw is farther out than 6.7.

    Args:
        seed: in [0, 2^63).
        step: `int64`, scalar.
        index: `int64`, any shape.
        dtype: of the result, float32 or float64; the two agree to the precision of the narrower.

    Returns:
        Of the shape and on the device of `index`.
    """
    stream = hashed(hashed(torch.full_like(step, seed)) + step)
    words = hashed(stream + index * GOLDEN_RATIO)
    radius_share, angle_share = ((half.to(dtype) + 0.5) / WORD for half in (_shifted(words, 32), words & (WORD - 1)))
    return (-2 * radius_share.log()).sqrt() * (2 * math.pi * angle_share).cos()
