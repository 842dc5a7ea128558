"""The contract of a source: an indexed sequence of labelled faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from frtrain.registry import Registry


@runtime_checkable
class Source(Protocol):
    """Labelled face crops by index. Implementations are cheap to pickle into worker processes.

    Attributes:
        classes: identity names; the position is the label. Counted from the data, never typed by a user.
        labels: `int64 [N]`, each in `[0, len(classes))`.
        fingerprint: short text that changes when the data change (names, counts, order); stored in checkpoints.
    """

    classes: Sequence[str]
    labels: NDArray[np.int64]
    fingerprint: str

    def __len__(self) -> int: ...

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB crop `uint8 [112, 112, 3]`.

        Raises:
            ImageError: the image cannot be decoded.
        """
        ...

    def describe(self, index: int) -> str:
        """Where the image comes from (a path, or how it is made), for messages and reports."""
        ...


@runtime_checkable
class Preparable(Protocol):
    """A source that can do slow work ahead of training, once, so that the first epoch is as fast as the others."""

    def prepare(self, workers: int, progress: Callable[[int], None] | None = None) -> int:
        """Do it in `workers` processes; `progress` is told how many images were dealt with. Returns how many needed it."""
        ...


SOURCES: Registry[Source] = Registry("data")
