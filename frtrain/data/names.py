"""Millions of names in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

TEXTS_AT_ONCE = 65_536


class Names(Sequence[str]):
    """An unchangeable sequence of texts, kept as one block of UTF-8: about a quarter of a list's memory.

    Names that are not valid Unicode (undecodable file names) come back as they were.

    Attributes:
        block: `uint8 [total]`, all texts end to end.
        ends: `int64 [N]`, where each text ends in `block`.
    """

    def __init__(self, block: NDArray[np.uint8], ends: NDArray[np.int64]):
        self.block = block
        self.ends = ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """Pack `texts`, one after the other: they are never all in memory."""
        block, ends = bytearray(), array("q")
        for text in texts:
            block += text.encode("utf-8", "surrogateescape")
            ends.append(len(block))
        return cls(np.frombuffer(block, dtype=np.uint8), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start = self.ends[at - 1] if at else 0
        return self.block[start : self.ends[at]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), TEXTS_AT_ONCE):
            for end in self.ends[first : first + TEXTS_AT_ONCE].tolist():
                yield self.block[start:end].tobytes().decode("utf-8", "surrogateescape")
                start = end
