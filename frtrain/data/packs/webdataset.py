"""A pack as WebDataset shards, `train-000000.tar`, ...: of each image `<number>.jpg` and its label `<number>.cls`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from frtrain.data.formats.tar import TarShardWriter
from frtrain.data.pack_names import extension_of, relative_name
from frtrain.data.packs.container import Container, State, part_of
from frtrain.data.packs.target import PART
from frtrain.errors import DataError
from frtrain.files import file_sha256

LIST = "images.lst"
SHARDS = "train-*.tar"


def shard_name(number: int) -> str:
    """The name of a shard."""
    return f"train-{number:06d}.tar"


class WebDatasetContainer(Container):
    """Images in shards of bounded size, numbered through from 0. The same images give the same bytes.

    Args:
        target: the folder.
        state: as `state` gave it; None: begin.
        shard_images: a shard has at most so many images.
        shard_bytes: a shard is closed when it has so many bytes.
    """

    list_name: ClassVar[str] = LIST
    first_number: ClassVar[int] = 0

    def __init__(self, target: Path, state: State | None, shard_images: int, shard_bytes: int):
        self._target = target
        self._shard_images, self._shard_bytes = shard_images, shard_bytes
        self._digests: dict[str, str] = dict(state["digests"]) if state else {}
        self._images = int(state["images"]) if state else 0
        self._shard: TarShardWriter | None = None
        for path in target.glob(SHARDS + PART):
            if path.name > part_of(Path(shard_name(len(self._digests)))).name:
                path.unlink()
        if state and state["position"]:
            path = part_of(target / shard_name(len(self._digests)))
            try:
                self._shard = TarShardWriter(path, state["position"])
            except (ValueError, FileNotFoundError) as error:
                raise DataError(
                    f"{path}: cannot be gone on with ({error}); make the pack anew with redo=true"
                ) from None

    def place(self, data: bytes, label: int, name: str, number: int) -> str:
        """The name itself; without one `<label>/<number>`."""
        return relative_name(name) or f"{label}/{number}.{extension_of(data)}"

    def add(self, data: bytes, label: int, name: str, number: int) -> None:
        """Write image and label as two members of the shard."""
        if self._shard is None:
            self._shard = TarShardWriter(part_of(self._target / shard_name(len(self._digests))))
        self._shard.add(f"{number:09d}.{extension_of(data)}", data)
        self._shard.add(f"{number:09d}.cls", str(label).encode())
        self._images += 1
        if self._images >= self._shard_images or self._shard.position >= self._shard_bytes:
            self._close_shard()

    def sync(self) -> None:
        """See `Container.sync`."""
        if self._shard is not None:
            self._shard.flush()

    def state(self) -> dict[str, Any]:
        """Checksums of the shards that are full, and images and bytes of the one that is not."""
        position = self._shard.position if self._shard is not None else 0
        return {"digests": self._digests, "images": self._images, "position": position}

    def complete(self, labels: Iterator[int], classes: Sequence[str]) -> list[tuple[str, str]]:
        """Close the last shard."""
        if self._shard is not None:
            self._close_shard()
        return [(name + PART, name) for name in self._digests]

    def close(self) -> None:
        """See `Container.close`."""
        if self._shard is not None:
            self._shard.abandon()

    def checksum(self, name: str) -> str | None:
        """See `Container.checksum`."""
        return self._digests.get(name)

    @staticmethod
    def files(target: Path) -> Iterator[Path]:
        """See `Container.files`."""
        yield from target.glob(SHARDS)
        yield from target.glob(SHARDS + PART)

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shard.close()
        self._digests[shard_name(len(self._digests))] = file_sha256(self._shard.path)
        self._shard, self._images = None, 0
