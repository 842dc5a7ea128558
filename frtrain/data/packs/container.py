"""What holds the images of a pack while it is written: the part in which the kinds of packs differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from frtrain.data.packs.target import PART


class Container(ABC):
    """Takes images in their order. All files of a container but a folder's images end in `.part` until the end.

    Every kind has a constructor `(target, state, ...)`: with `state`, as the method of that name gave it, a container
    goes on after the images that it had then, and cuts off what came behind them.

    Attributes:
        list_name: the list of names beside the images.
        first_number: of the images in the list.
    """

    list_name: ClassVar[str]
    first_number: ClassVar[int]

    @abstractmethod
    def place(self, data: bytes, label: int, name: str, number: int) -> str:
        """The name that the next image will be found by in this container."""

    @abstractmethod
    def add(self, data: bytes, label: int, name: str, number: int) -> None:
        """Take the next image; `name` is what `place` returned.

        Raises:
            DataError: the container cannot hold it.
            OSError: the disk is full.
        """

    @abstractmethod
    def sync(self) -> None:
        """Wait until everything taken is on the disk.

        Raises:
            OSError: the disk is full or fails.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a later container needs to go on from here, after `sync`; plain JSON values."""

    @abstractmethod
    def complete(self, labels: Iterator[int], classes: Sequence[str]) -> list[tuple[str, str]]:
        """Write what comes after the last image, and wait for the disk.

        Args:
            labels: of all images, in their order.
            classes: the identities' names.

        Returns:
            The renames (from, to) that are left to do, in their order. A later one may replace the file of an earlier one.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the files, however far they are. May raise `OSError`."""

    def checksum(self, name: str) -> str | None:
        """SHA-256 of a completed file if it is known already."""
        return None

    @staticmethod
    @abstractmethod
    def files(target: Path) -> Iterator[Path]:
        """Everything in `target` that containers of this kind write, complete or not."""


def part_of(path: Path) -> Path:
    """The file's path while it is not complete."""
    return path.with_name(path.name + PART)


def checksum_line(digest: str, name: str) -> bytes:
    """A line of a file that `sha256sum -c` reads; names with line breaks or backslashes are marked and escaped as it does."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n".encode("utf-8", "surrogateescape")


State = Mapping[str, Any]
