"""Checkpoints on disk: verified, and read by rows, so that nobody holds more than what they need of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from frtrain.classifier.selection import Shard
from frtrain.errors import CheckpointError
from frtrain.files import file_sha256
from frtrain.training.checkpoint_index import (
    CLASSES,
    INDEX,
    DamagedCheckpointError,
    Facts,
    Index,
    StoredFile,
    read_index,
)
from frtrain.training.tensor_files import TensorFile


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint that is left on disk until somebody asks for tensors.

    Attributes:
        path: its folder.
        index: the content of its `checkpoint.json`.
    """

    path: Path
    index: Index

    @classmethod
    def at(cls, path: Path) -> StoredCheckpoint:
        """The one in a folder; nothing but `checkpoint.json` is verified yet.

        Raises:
            CheckpointError: as `read_index`.
        """
        return cls(path, read_index(path))

    @property
    def facts(self) -> Facts:
        """All that is neither tensor nor class name."""
        return self.index.facts

    @property
    def state(self) -> dict[str, Any]:
        """`TrainingState` as a dict."""
        return self.facts.state

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration of its run."""
        return self.facts.config

    @property
    def fingerprint(self) -> str:
        """Of the data it was trained on."""
        return self.facts.fingerprint

    @property
    def preprocessing(self) -> dict[str, Any]:
        """`Preprocessing` as a dict."""
        return self.facts.preprocessing

    @property
    def parts(self) -> list[str]:
        """The parts that it has tensors of."""
        return list(dict.fromkeys(file.part for file in self.index.files.values() if file.part is not None))

    @cached_property
    def classes(self) -> list[str]:
        """Identity names; the position is the row of the class centres.

        Raises:
            CheckpointError: they cannot be read.
        """
        try:
            names = json.loads((self.path / CLASSES).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path / CLASSES}: cannot be read ({error})") from None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{self.path / CLASSES}: is not a list of names")
        return names

    def verify(self, parts: Sequence[str] | None = None) -> StoredCheckpoint:
        """Compare the files with their checksums, several at a time.

        Args:
            parts: whose files; class names are always among them. None for all.

        Returns:
            Itself.

        Raises:
            DamagedCheckpointError: a file is missing or damaged, or there is no such part; names it.
            CheckpointError: a file may not be read.
        """
        for part in parts or ():
            if part not in self.parts:
                raise DamagedCheckpointError(
                    f"{self.path / part}.safetensors: is missing from the checkpoint; use an earlier one of {self.path.parent}"
                )
        files = self.index.files
        names = [name for name, file in files.items() if parts is None or file.part is None or file.part in parts]
        if CLASSES not in files:
            raise DamagedCheckpointError(f"{self.path / CLASSES}: is missing from {INDEX}")
        with ThreadPoolExecutor(max(1, min(len(names), os.cpu_count() or 1))) as threads:
            for problem in threads.map(self._problem, names):
                if problem is not None:
                    raise DamagedCheckpointError(f"{problem}; use an earlier checkpoint of {self.path.parent}")
        return self

    def _problem(self, name: str) -> str | None:
        file, expected = self.path / name, self.index.files[name]
        try:
            if not file.is_file():
                return f"{file}: is missing from the checkpoint"
            if expected.bytes is not None and file.stat().st_size != expected.bytes:
                return f"{file}: is damaged (it has {file.stat().st_size:,} of {expected.bytes:,} bytes)"
            if file_sha256(file) != expected.sha256:
                return f"{file}: is damaged (its content does not match the checksum in {INDEX})"
        except PermissionError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
        except OSError as error:
            return f"{file}: cannot be read ({error.strerror or error})"
        return None

    @contextmanager
    def opened(self, part: str) -> Iterator[StoredPart]:
        """The tensors of a part, for reading within this context; none where the checkpoint does not have the part.

        Raises:
            CheckpointError: a file cannot be read, or lacks a tensor.
        """
        stored = StoredPart(self.path, {name: file for name, file in self.index.files.items() if file.part == part})
        try:
            stored.open()
            yield stored
        except (SafetensorError, OSError, KeyError) as error:
            raise CheckpointError(f"{self.path}: its {part} cannot be read ({error})") from None
        finally:
            stored.close()


class StoredPart:
    """The tensors of one part of a checkpoint, which may be spread over several files.

    Args:
        folder: of the checkpoint.
        files: those of the part.
    """

    def __init__(self, folder: Path, files: dict[str, StoredFile]):
        self._folder, self._stored = folder, files
        self._open: list[TensorFile] = []
        self._places: dict[str, list[tuple[TensorFile, Shard | None]]] = {}

    def open(self) -> None:
        """Open the files and see that together they have all rows of every tensor.

        Raises:
            CheckpointError: rows are missing, or are there twice.
            SafetensorError, OSError: a file cannot be read.
        """
        for name, stored in self._stored.items():
            file = TensorFile(self._folder / name)
            self._open.append(file)
            for tensor, rows in (stored.tensors or dict.fromkeys(sorted(file.names))).items():
                self._places.setdefault(tensor, []).append((file, rows))
        for tensor, places in self._places.items():
            places.sort(key=lambda place: 0 if place[1] is None else place[1].first)
            if not covers([rows for _, rows in places]):
                raise CheckpointError(f"{self._folder}: not all rows of {tensor} are in it")

    def close(self) -> None:
        """Let go of the files."""
        for file in self._open:
            file.close()
        self._open.clear()

    @property
    def names(self) -> list[str]:
        """Of all tensors."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the whole tensor."""
        file, rows = self._places[name][0]
        stored = file.shape(name)
        return stored if rows is None else (rows.total, *stored[1:])

    def dtype(self, name: str) -> torch.dtype:
        """Of a tensor."""
        return self._places[name][0][0].dtype(name)

    def whole(self, name: str) -> Tensor:
        """A tensor with all its rows."""
        places = self._places[name]
        if places[0][1] is None:
            return places[0][0].whole(name)
        tensor = torch.empty(self.shape(name), dtype=self.dtype(name))
        for first, block in self.blocks(name):
            tensor[first : first + len(block)] = block
        return tensor

    def blocks(self, name: str, first: int = 0, last: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Rows `first` to `last` (exclusive; None for all) in rising order, in blocks with the number of their first row."""
        last = self.shape(name)[0] if last is None else last
        for file, rows in self._places[name]:
            begin = 0 if rows is None else rows.first
            end = file.shape(name)[0] if rows is None else rows.last
            for start, block in file.rows(name, max(first, begin) - begin, min(last, end) - begin):
                yield begin + start, block

    @torch.no_grad()
    def read_into(self, target: Tensor, name: str, rows: Shard | None = None) -> None:
        """Copy a tensor, or these rows of it, into one of the same shape, whatever its type, layout and device."""
        if not target.ndim:
            target.copy_(self.whole(name))
            return
        wanted = Shard(0, len(target), len(target)) if rows is None else rows
        for first, block in self.blocks(name, wanted.first, wanted.last):
            target[first - wanted.first : first - wanted.first + len(block)].copy_(block)


def covers(pieces: Sequence[Shard | None]) -> bool:
    """Whether pieces, sorted by their first rows, are all rows of a tensor, each once."""
    if pieces[0] is None:
        return len(pieces) == 1
    end = 0
    for rows in pieces:
        if rows is None or rows.first != end or rows.total != pieces[0].total:
            return False
        end = rows.last
    return end == pieces[0].total
