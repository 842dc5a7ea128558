"""Parquet tables with a column of images, as Hugging Face's `datasets` writes them: any row, without reading the rest.

Optional: `pip install 'frtrain[parquet]'`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frtrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow

FILES_OPEN = 32
"""Files that a process keeps open: each holds its footer in memory."""

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "bytes")
LABEL_NAMES = ("label", "labels", "identity", "identity_id", "class", "person", "cls", "id")
"""Names that settle which column is meant where several have the right type, the first one that is there."""


def import_pyarrow() -> Any:
    """The package pyarrow.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "data=parquet needs pyarrow, which is not installed: pip install 'frtrain[parquet]'"
        ) from None
    return pyarrow


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        image, label: names.
        image_type, label_type: Arrow's.
    """

    image: str
    label: str
    image_type: Any
    label_type: Any

    @property
    def is_struct(self) -> bool:
        """Whether an image is a struct with `bytes`, not the bytes themselves."""
        return _field_type(self.image_type, "bytes") is not None

    @property
    def has_paths(self) -> bool:
        """Whether a path stands beside the bytes."""
        path = _field_type(self.image_type, "path")
        return path is not None and _is_text(path)


class ParquetFiles:
    """The rows of some files, numbered through.

    Threads may share it, and forked processes: each opens the files for itself. Pickling leaves files and rows behind.

    Args:
        paths: the files, with the same columns.
        image_column, label_column: names; None: found by their types and names.
        cache_bytes: of decoded row groups that are kept, the latest used ones; at least one is.

    Attributes:
        columns: that were chosen.
        groups: `int64 [G, 4]`, of each row group the file, its number there, rows, and bytes of the image column.
        ends: `int64 [G]`, the row behind each row group.
        metadata: the first file's schema metadata.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: a file cannot be read or is damaged, or the columns cannot be told.
    """

    def __init__(self, paths: Sequence[Path], image_column: str | None, label_column: str | None, cache_bytes: int):
        self.paths = paths
        self.cache_bytes = cache_bytes
        self._here = _Here()
        groups: list[tuple[int, int, int, int]] = []
        for number, path in enumerate(paths):
            with reading(path):
                file = self._file(number)
                schema, footer = file.schema_arrow, file.metadata
            if number == 0:
                self.columns = choose_columns(schema, image_column, label_column, path)
                self.metadata: dict[bytes, bytes] = dict(schema.metadata or {})
            else:
                _check_same(schema, self.columns, path, paths[0])
            with reading(path):
                groups += [(number, *of_group) for of_group in _groups(footer, self.columns)]
        self.groups: NDArray[np.int64] = np.array(groups, dtype=np.int64).reshape(-1, 4)
        if (self.groups < 0).any():
            raise DataError(
                f"{paths[int(self.groups[(self.groups < 0).any(axis=1)][0, 0])]}: is damaged (negative counts)"
            )
        self.ends = np.cumsum(self.groups[:, 2])

    def column(self, number: int, name: str) -> pyarrow.ChunkedArray:
        """One column of file `number`, whole; nothing else is read.

        Raises:
            DataError: the file is damaged.
        """
        with reading(self.paths[number]), self._locked():
            table = self._file(number).read(columns=[name], use_threads=False)
            for chunk in table.column(0).chunks:
                chunk.validate(full=True)
        rows = int(self.groups[self.groups[:, 0] == number, 2].sum())
        if len(table) != rows:
            raise DataError(f"{self.paths[number]}: is damaged (column {name} has {len(table)} of {rows} rows)")
        return table.column(0)

    def place(self, row: int) -> tuple[int, int]:
        """Row group (of all files), and the row within it."""
        group = int(np.searchsorted(self.ends, row, side="right"))
        return group, row - int(self.ends[group] - self.groups[group, 2])

    def image(self, row: int) -> bytes | None:
        """The image column's bytes in one row; None where there are none.

        Raises:
            DataError: the file is damaged.
        """
        group, at = self.place(row)
        with self._locked() as here:
            chunks = here.groups.pop(group, None)
            if chunks is None:
                chunks = self._read_group(group)
                here.bytes_kept += _bytes(chunks)
            here.groups[group] = chunks  # the latest used stand last
            while len(here.groups) > 1 and here.bytes_kept > self.cache_bytes:
                here.bytes_kept -= _bytes(here.groups.pop(next(iter(here.groups))))
        for chunk in chunks:
            if at < len(chunk):
                value: bytes | None = chunk[at].as_py()
                return value
            at -= len(chunk)
        raise DataError(f"{self.paths[int(self.groups[group, 0])]}: is damaged (row {row} is missing)")

    def _read_group(self, group: int) -> list[Any]:
        number, in_file, rows, _ = self.groups[group].tolist()
        name = f"{self.columns.image}.bytes" if self.columns.is_struct else self.columns.image
        with reading(self.paths[number]):
            table = self._file(number).read_row_group(in_file, columns=[name], use_threads=False)
            chunks = [chunk.field("bytes") if self.columns.is_struct else chunk for chunk in table.column(0).chunks]
            for chunk in chunks:
                chunk.validate(full=True)
        if len(table) != rows:
            raise DataError(f"{self.paths[number]}: is damaged (row group {in_file} has {len(table)} of {rows} rows)")
        return chunks

    def _file(self, number: int) -> Any:
        pyarrow = import_pyarrow()
        files = self._here.files
        file = files.pop(number, None)
        if file is None:
            path = os.fsencode(self.paths[number])
            file = pyarrow.parquet.ParquetFile(
                pyarrow.OSFile(path, "rb"), pre_buffer=False, page_checksum_verification=True
            )
        files[number] = file
        if len(files) > FILES_OPEN:
            del files[next(iter(files))]
        return file

    @contextmanager
    def _locked(self) -> Iterator[_Here]:
        if self._here.process != os.getpid():
            self._here = _Here()
        with self._here.lock:
            yield self._here

    def __getstate__(self) -> dict[str, object]:
        return {**{key: value for key, value in self.__dict__.items() if key != "_here"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._here = _Here()


class _Here:
    """What belongs to one process: Arrow's readers have positions, and locks do not survive a fork."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.lock = threading.Lock()
        self.files: dict[int, Any] = {}
        self.groups: dict[int, list[Any]] = {}
        self.bytes_kept = 0


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Arrow's complaints about a file as a `DataError` that names it."""
    pyarrow = import_pyarrow()
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (
        pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError, RuntimeError
    ) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: is damaged, or no Parquet file ({reason[:200]})") from None


def choose_columns(schema: Any, image: str | None, label: str | None, path: Path) -> Columns:
    """The image and the label column of a schema.

    Raises:
        DataError: there is none, or several could be meant; lists the columns.
    """
    image_name = _choose(schema, image, _is_image, IMAGE_NAMES, "image", "structs with bytes, or binary values", path)
    label_name = _choose(schema, label, _is_label, LABEL_NAMES, "label", "integers or texts", path)
    return Columns(image_name, label_name, schema.field(image_name).type, schema.field(label_name).type)


def _choose(schema: Any, given: str | None, fits: Any, names: Sequence[str], what: str, types: str, path: Path) -> str:
    listed = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema)
    if given is not None:
        if schema.names.count(given) != 1:
            raise DataError(f"{path}: data.{what}_column={given}: no such column; there are: {listed}")
        if not fits(schema.field(given).type):
            raise DataError(f"{path}: data.{what}_column={given}: expected {types}; there are: {listed}")
        return given
    fitting = [field.name for field in schema if fits(field.type)]
    if len(fitting) > 1:
        fitting = [name for name in names if fitting.count(name) == 1][:1] or fitting
    if len(fitting) != 1:
        found = "several columns could be" if fitting else "no column can be"
        raise DataError(
            f"{path}: {found} the {what}s ({types}); say which with data.{what}_column=... There are: {listed}"
        )
    name: str = fitting[0]
    return name


def _check_same(schema: Any, columns: Columns, path: Path, first: Path) -> None:
    for name, kind in ((columns.image, columns.image_type), (columns.label, columns.label_type)):
        if schema.names.count(name) != 1 or schema.field(name).type != kind:
            raise DataError(f"{path}: column {name} is missing or of another type than in {first.name}")


def _groups(footer: Any, columns: Columns) -> Iterator[tuple[int, int, int]]:
    """Number, rows and bytes of the image column of each row group."""
    wanted = f"{columns.image}.bytes" if columns.is_struct else columns.image
    leaf = next(at for at in range(footer.num_columns) if footer.schema.column(at).path == wanted)
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        yield number, group.num_rows, group.column(leaf).total_uncompressed_size


def _bytes(chunks: list[Any]) -> int:
    return sum(chunk.nbytes for chunk in chunks)


def _short(kind: Any) -> str:
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _field_type(kind: Any, name: str) -> Any:
    types = import_pyarrow().types
    if not types.is_struct(kind):
        return None
    return next((kind.field(at).type for at in range(kind.num_fields) if kind.field(at).name == name), None)


def _is_binary(kind: Any) -> bool:
    types = import_pyarrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    types = import_pyarrow().types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_image(kind: Any) -> bool:
    held = _field_type(kind, "bytes")
    return _is_binary(kind if held is None else held)


def _is_label(kind: Any) -> bool:
    types = import_pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind)) or _is_text(kind)
