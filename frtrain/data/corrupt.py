"""Images that cannot be read: what stands in for them, and which they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frtrain.data.source import Source
from frtrain.errors import ImageError

OnCorrupt = Literal["error", "skip", "replace"]
"""What training does with an image that cannot be read.

    error: the run ends with its name.
    replace: another image of the same identity takes its place; where none can be read, as `skip`.
    skip: its row of the batch stays, for shapes and the rows of each process are fixed, but with label -1, which no loss
        learns from, and the pixels of a readable image of the batch.
"""


def stand_ins(labels: NDArray[np.int64], sample: int, word: int) -> Iterator[int]:
    """The other images of a sample's identity, each once, beginning at one that `word` chooses."""
    same = np.flatnonzero(labels == labels[sample])
    others = same[same != sample]
    if len(others):
        first = word % len(others)
        yield from np.concatenate([others[first:], others[:first]]).tolist()


class CorruptImages:
    """The unreadable images that this process has met, each once."""

    def __init__(self) -> None:
        self._met: set[str] = set()
        self._unreported: list[str] = []

    def add(self, images: Iterable[str]) -> None:
        """Note images, each given by what its error says, which begins with its name."""
        for image in images:
            if image not in self._met:
                self._met.add(image)
                self._unreported.append(image)

    def unreported(self) -> list[str]:
        """Those that were noted since the last call."""
        unreported, self._unreported = self._unreported, []
        return unreported


class ReadableSource:
    """A source in which another image of the same identity stands for one that cannot be read.

    Args:
        source: where images come from.
        corrupt: is told of those that cannot.
    """

    def __init__(self, source: Source, corrupt: CorruptImages):
        self.source = source
        self.corrupt = corrupt
        self.classes: Sequence[str] = source.classes
        self.labels = source.labels
        self.fingerprint = source.fingerprint

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB crop.

        Raises:
            ImageError: no image of the identity can be read.
        """
        try:
            return self.source.image(index)
        except ImageError as error:
            self.corrupt.add([str(error)])
            failure = error
        for other in stand_ins(self.labels, index, 0):
            try:
                return self.source.image(other)
            except ImageError as error:
                self.corrupt.add([str(error)])
        raise failure

    def describe(self, index: int) -> str:
        """Where the image comes from."""
        return self.source.describe(index)
