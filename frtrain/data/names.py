"""Millions of names in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


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
        """Pack `texts`."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

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
