"""Memory for a gradient of the size of all centres, used again step after step."""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LARGE = 2**24
"""Bytes from which it shows in the time of a step whether memory is new."""

NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


class GradientMemory:
    """Uninitialised tensors for gradients; on the CPU the memory of the last one, as soon as nobody uses it any more.

    The first write to new memory makes the system find and clear its pages: for 200 MB that takes 60 ms, several times as
    much where memory is fragmented, of some 350 ms that a step takes. On a GPU torch's allocator does this anyway.
    """

    def __init__(self) -> None:
        self._array: NDArray[np.floating] | None = None

    def empty_like(self, tensor: Tensor) -> Tensor:
        """An uninitialised contiguous tensor of the same shape, type and device."""
        if tensor.device.type != "cpu" or tensor.nbytes < LARGE or tensor.dtype not in NUMPY_TYPES:
            return torch.empty_like(tensor, memory_format=torch.contiguous_format)
        shape, dtype = tuple(tensor.shape), NUMPY_TYPES[tensor.dtype]
        # Tensors made of the array hold a reference to it: besides this object and the call, nobody may.
        free = self._array is not None and sys.getrefcount(self._array) == 2
        if self._array is None or not free or self._array.shape != shape or self._array.dtype != dtype:
            self._array = np.empty(shape, dtype)
        return torch.from_numpy(self._array)

    def __deepcopy__(self, memo: object) -> GradientMemory:
        return GradientMemory()
