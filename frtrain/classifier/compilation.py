"""torch.compile for functions of similarities."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch


@lru_cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a compiler makes it faster: compiled anew for each loss, and for a second size of blocks for all sizes."""
    faster: Callable[..., Any] = torch.compile(function)
    return faster
