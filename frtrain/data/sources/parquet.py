"""Parquet tables of images with labels, as Hugging Face's `datasets` writes them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frtrain.data.encoded import EncodedSource
from frtrain.data.formats.parquet import ParquetFiles, import_pyarrow, reading
from frtrain.data.images import EXTENSIONS
from frtrain.data.label_texts import Classes, LabelTexts, numbered_classes
from frtrain.data.names import Names
from frtrain.data.pack_names import extension_of
from frtrain.data.source import SOURCES
from frtrain.errors import DataError, ImageError
from frtrain.schema import PositiveInt

log = logging.getLogger(__name__)

MANY_ROWS = 200
"""Rows of a row group above which an image drawn at random costs a hundred times one of a pack. `datasets` writes 100."""


@SOURCES.register("parquet")
class ParquetSource(EncodedSource):
    """Images of one or more Parquet files, in the order of the files' names.

    Opening reads the files' footers and the label column. An image is read with its whole row group, and the latest
    ones are kept. Integer labels are named by the `ClassLabel` in the schema's `huggingface` metadata where that is
    there. An image is called `<identity>/<file>` after the `path` beside its bytes, `<identity>/<row>.<ext>` where there
    is none. The fingerprint covers labels and the sizes of row groups, not pixels.

    Args:
        root: folder of `*.parquet`, or one such file.
        image_column: of structs with a field `bytes`, or of binary values; None: the only one of that type, or the one
            called `image`.
        label_column: of integers or of identity names; None: the only one of that type, or the one called `label`.
        cache_mebibytes: of decoded row groups that a process keeps; at least one is kept.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: no files, a damaged one, no column or several that could be meant, an image without a label, fewer
            than two identities.
    """

    def __init__(self, root: str, image_column: str | None, label_column: str | None, cache_mebibytes: PositiveInt):
        if not root:
            raise DataError("data.root: a folder with parquet files is required; set it with data.root=...")
        self.files = ParquetFiles(_files(Path(root).expanduser()), image_column, label_column, cache_mebibytes << 20)
        classes = self._classes(str(root))
        self.classes: Sequence[str] = classes.names
        self.labels = classes.of_code
        if len(self.classes) < 2:
            raise DataError(
                f"data.root={root}: identities: {len(self.classes)}, images: {len(self.labels)}, but two identities are "
                "needed at least"
            )
        digest = hashlib.sha256()
        for array in (self.labels, self.files.groups, classes.names.block, classes.names.ends):
            digest.update(np.ascontiguousarray(array).data)
        counts = f"{len(self.labels)} images:{len(self.classes)} identities"
        self.fingerprint = f"parquet:{counts}:{digest.hexdigest()[:16]}"
        self._files_named: Names | None = None
        self._warn_of_large_groups()

    def encoded(self, index: int) -> bytes:
        """The bytes in the image column."""
        try:
            data = self.files.image(range(len(self))[index])
        except DataError as error:
            raise ImageError(self.describe(index), f"cannot be read: {error}") from None
        if data is None:
            raise ImageError(self.describe(index), "has no bytes (a path alone is not followed)")
        return data

    def name(self, index: int) -> str:
        """`<identity>/<file>` after the path beside the bytes, else `<identity>/<row>.<ext>`.

        Raises:
            DataError: the column of paths is damaged.
        """
        if self._files_named is None:
            self._files_named = self._file_names()
        row = range(len(self))[index]
        return f"{self.classes[int(self.labels[row])]}/{self._files_named[row]}"

    def describe(self, index: int) -> str:
        """File and row."""
        row = range(len(self))[index]
        group, _ = self.files.place(row)
        file, in_file = self.files.groups[group, :2].tolist()
        first = group - in_file  # of the file's row groups
        return f"{self.files.paths[file]}:row {row - int(self.files.ends[first] - self.files.groups[first, 2])}"

    def _classes(self, where: str) -> Classes:
        """Of the label columns of all files; `of_code` is the class of each row."""
        columns = [self.files.column(number, self.files.columns.label) for number in range(len(self.files.paths))]
        for path, column in zip(self.files.paths, columns, strict=True):
            if column.null_count:
                raise DataError(f"{path}: {column.null_count} rows have no label in column {self.files.columns.label}")
        if import_pyarrow().types.is_integer(self.files.columns.label_type):
            labels = np.concatenate([column.to_numpy().astype(np.int64) for column in columns])
            return numbered_classes(labels, where, _class_label_names(self.files.metadata, self.files.columns.label))
        texts = LabelTexts()
        codes: list[NDArray[np.int64]] = []
        for path, column in zip(self.files.paths, columns, strict=True):
            with reading(path):
                for chunk in column.chunks:
                    encoded = chunk if hasattr(chunk, "dictionary") else chunk.dictionary_encode()
                    of_text = np.array(
                        [texts.code(str(text)) for text in encoded.dictionary.to_pylist()], dtype=np.int64
                    )
                    codes.append(of_text[encoded.indices.to_numpy()])
        classes = texts.classes(where)
        return Classes(classes.names, classes.of_code[np.concatenate(codes)], classes.numbers)

    def _file_names(self) -> Names:
        """Of each row, the name of the file that it was made of; a number where that says too little."""
        width = max(9, len(str(len(self))))
        extension = "jpg"
        if len(self):
            extension = extension_of((self.files.image(0) or b"")[:16])
        names: list[str] = []
        for path in self._paths():
            file = (path or "").replace("\\", "/").rpartition("/")[2]
            stem, dot, ending = file.rpartition(".")
            usable = stem and f"{dot}{ending.lower()}" in EXTENSIONS and "\0" not in file
            names.append(file if usable else f"{len(names):0{width}d}.{extension}")
        hashes = np.array([hash((name, label)) for name, label in zip(names, self.labels.tolist(), strict=True)])
        if len(np.unique(hashes)) < len(hashes):  # the same file name in folders of old
            for row, name in enumerate(names):
                stem, _, ending = name.rpartition(".")
                names[row] = f"{stem}-{row:0{width}d}.{ending}"
        return Names.of(names)

    def _paths(self) -> list[str | None]:
        if not self.files.columns.has_paths:
            return [None] * len(self)
        column = f"{self.files.columns.image}.path"
        paths: list[str | None] = []
        for number, file in enumerate(self.files.paths):
            with reading(file):
                for chunk in self.files.column(number, column).chunks:
                    paths += chunk.field("path").to_pylist()
        return paths

    def _warn_of_large_groups(self) -> None:
        rows, sizes = self.files.groups[:, 2], self.files.groups[:, 3]
        if sizes.sum() > self.files.cache_bytes and rows.mean() > MANY_ROWS:
            log.warning(
                "%s: row groups hold %d images (%.1f MiB) on average, and each image drawn at random is read with its "
                "whole group. Make a pack once: python -m frtrain convert source=... target=... to=recordio",
                self.files.paths[0].parent,
                round(rows.mean()),
                sizes.mean() / 2**20,
            )


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        if not root.is_file():
            raise DataError(f"data.root={root}: no such folder or parquet file")
        return [root]
    try:
        paths = sorted(
            path for path in root.iterdir() if path.suffix.lower() == ".parquet" and path.name[0] not in "._"
        )
    except OSError as error:
        raise DataError(f"data.root={root}: cannot be listed ({error.strerror})") from None
    if not paths:
        raise DataError(f"data.root={root} has no parquet files: expected {root}/*.parquet")
    return paths


def _class_label_names(metadata: dict[bytes, bytes], column: str) -> list[str] | None:
    """The names that Hugging Face's `ClassLabel` gives to the numbers of a column, if it is there."""
    value: Any
    try:
        value = json.loads(metadata.get(b"huggingface", b"null"))
    except (ValueError, RecursionError):
        return None
    for key in ("info", "features", column, "names"):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return value
    return None
