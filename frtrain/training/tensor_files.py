"""Safetensors files, written and hashed in one pass without a second copy in memory, and read by rows.

The format: 8 bytes with the length of the header, the header (JSON: type, shape and place of each tensor), the numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

TYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}
"""Names of types in the header, the largest first: in this order every tensor lies at a multiple of its number's size."""

BLOCK_BYTES = 4 * 2**20
"""Written, hashed and looked through at once; it stays in the cache meanwhile."""

READ_BYTES = 64 * 2**20
"""Rows that are read at once: a bound on the memory that reading needs besides its target."""


class NotFiniteError(ValueError):
    """A tensor holds infinities or NaN; its message is the tensor's name."""


@dataclass(frozen=True)
class WrittenFile:
    """What a file is known by.

    Attributes:
        sha256: of its content, hexadecimal.
        bytes: its length.
    """

    sha256: str
    bytes: int


class HashedFile:
    """A file that is hashed while it is written, large blocks by a thread beside the writing.

    Args:
        file: open for writing.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._beside = ThreadPoolExecutor(1)  # starts with the first large block, ends with this object

    def write(self, block: Any) -> None:
        """Append bytes, or a view of them.

        Raises:
            OSError: the disk is full.
        """
        if len(block) < BLOCK_BYTES:
            self._digest.update(block)
            self._file.write(block)
        else:
            hashing = self._beside.submit(self._digest.update, block)
            try:
                self._file.write(block)
            finally:
                hashing.result()
        self._bytes += len(block)

    def synced(self) -> WrittenFile:
        """Wait until all of it is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._beside.shutdown()
        return WrittenFile(self._digest.hexdigest(), self._bytes)


def header_of(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]], metadata: Mapping[str, str] = {}) -> bytes:
    """The beginning of a file that then has these tensors' numbers one after the other.

    Args:
        tensors: type and shape by name, in the order of `TYPES`.
        metadata: further words, which readers hand on.

    Raises:
        TypeError: a type that is not in `TYPES`.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        if dtype not in TYPES:
            raise TypeError(f"{name}: tensors of {dtype} cannot be written")
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensors(path: Path, tensors: Mapping[str, Tensor], finite: bool = False) -> WrittenFile:
    """Write a safetensors file and wait until it is on the disk.

    Tensors may be on any device and in any layout; each is brought to main memory by itself. Other threads run meanwhile.

    Args:
        path: the file.
        tensors: by name.
        finite: whether all numbers must be.

    Raises:
        OSError: the disk is full.
        NotFiniteError: names the tensor.
        TypeError: a type that is not in `TYPES`.
    """
    ranks = {dtype: rank for rank, dtype in enumerate(TYPES)}
    ordered = sorted(tensors.items(), key=lambda item: (ranks.get(item[1].dtype, len(ranks)), item[0]))
    with path.open("wb") as file:
        hashed = HashedFile(file)
        hashed.write(header_of({name: (tensor.dtype, tensor.shape) for name, tensor in ordered}))
        for name, tensor in ordered:
            for block in _blocks(tensor):
                if finite and not _is_finite(block, tensor.dtype):
                    raise NotFiniteError(name)
                hashed.write(block)
        return hashed.synced()


def bytes_of(tensor: Tensor) -> memoryview:
    """The numbers of a contiguous tensor in main memory, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _blocks(tensor: Tensor) -> Iterator[memoryview]:
    content = bytes_of(tensor.detach().cpu().contiguous())
    for first in range(0, len(content), BLOCK_BYTES):
        yield content[first : first + BLOCK_BYTES]


def _is_finite(block: memoryview, dtype: torch.dtype) -> bool:
    if not dtype.is_floating_point:
        return True
    if dtype == torch.bfloat16:  # all bits of the exponent set
        return not bool(((np.frombuffer(block, np.uint16) & 0x7F80) == 0x7F80).any())
    types = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.float16}
    return bool(np.isfinite(np.frombuffer(block, types[dtype])).all())


class Slice(Protocol):
    """A tensor of an open safetensors file."""

    def get_shape(self) -> list[int]:
        """Its shape."""
        ...

    def get_dtype(self) -> str:
        """Its type, as in the header."""
        ...

    def __getitem__(self, rows: slice) -> Tensor:
        """Some of its rows."""
        ...


class TensorFile:
    """A safetensors file, open for reading; closed with `close`. Nothing is read before it is asked for.

    Raises:
        SafetensorError, OSError: it is none.
    """

    def __init__(self, path: Path):
        self._file = safe_open(path, framework="pt", device="cpu")
        self.names = frozenset(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor.

        Raises:
            KeyError: a type that is not in `TYPES`.
        """
        return {text: dtype for dtype, text in TYPES.items()}[self._slice(name).get_dtype()]

    def whole(self, name: str) -> Tensor:
        """A tensor, in memory of its own."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor.clone()  # of the file's pages, which change if somebody writes into it

    def rows(self, name: str, first: int, last: int) -> Iterable[tuple[int, Tensor]]:
        """Rows `first` to `last` (exclusive) in blocks of at most `READ_BYTES`, each with the number of its first row."""
        stored = self._slice(name)
        row_bytes = math.prod(self.shape(name)[1:]) * self.dtype(name).itemsize
        step = max(1, READ_BYTES // max(1, row_bytes))
        for begin in range(first, last, step):
            yield begin, stored[begin : min(begin + step, last)]

    def close(self) -> None:
        """Let go of the file."""
        self._file.__exit__(None, None, None)

    def _slice(self, name: str) -> Slice:
        found: Slice = self._file.get_slice(name)
        return found
