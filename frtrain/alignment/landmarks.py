"""Five landmarks per photograph that the user brings, in a CSV file: no detector is needed for these."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import posixpath
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.errors import DataError

NAMES = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
"""In the order of `frtrain.alignment.transform.TEMPLATES`; left and right as seen in the image."""

_COLUMNS = tuple(f"{name}_{axis}" for name in NAMES for axis in "xy")
_SHORT_COLUMNS = tuple(f"{axis}{number}" for number in range(1, 6) for axis in "xy")
_FORM = f"path,{','.join(_COLUMNS)} (or path,{','.join(_SHORT_COLUMNS)})"


@dataclass(frozen=True)
class Landmarks:
    """The landmarks of a file.

    Attributes:
        file: where they are from.
        points: `float64 [5, 2]`, (x, y) in pixels of the upright photograph, by its path relative to the source.
        unknown: how many lines name a photograph that the source has not.
        digest: of the file's content.
    """

    file: Path
    points: dict[str, NDArray[np.float64]]
    unknown: int
    digest: str


def read_landmarks(file: Path, photographs: Collection[str]) -> Landmarks:
    """Read a CSV file with a header line: the path of a photograph and ten numbers, in any order of columns.

    Other columns are passed over. A path that is not valid UTF-8 is read as the file system has it.

    Args:
        file: the CSV file.
        photographs: paths relative to the source, whose landmarks are wanted.

    Raises:
        DataError: the file cannot be read, lacks a column, has a line that is none, names a photograph twice, or none
            of the photographs; names file and line.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"landmarks={file}: cannot be read ({error.strerror})") from None
    text = content.decode("utf-8-sig", "surrogateescape")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    known = photographs if isinstance(photographs, (set, frozenset, dict)) else frozenset(photographs)
    points: dict[str, NDArray[np.float64]] = {}
    lines: dict[str, int] = {}
    try:
        header = [name.strip() for name in next(rows, [])]
        columns = _columns(file, header)
        for row in rows:
            line = rows.line_num
            if not any(field.strip() for field in row):
                continue
            if len(row) != len(header):
                raise DataError(f"{file}:{line}: has {len(row)} fields, but the header has {len(header)}")
            path = posixpath.normpath(row[columns[0]])
            if path in lines:
                raise DataError(
                    f"{file}:{line}: {path} has a line already, line {lines[path]}; one face per photograph: keep one line"
                )
            lines[path] = line
            five = _five(file, line, [row[column] for column in columns[1:]])
            if path in known:
                points[path] = five
    except csv.Error as error:
        raise DataError(f"{file}:{rows.line_num}: is not a line of a CSV file ({error})") from None
    if not lines:
        raise DataError(f"landmarks={file}: has no lines below its header")
    if not points:
        raise DataError(
            f"landmarks={file}: none of its {len(lines)} paths is a photograph of the source, e.g. {next(iter(lines))!r}; "
            "paths must be relative to source, as <identity>/<image>.jpg"
        )
    return Landmarks(file, points, len(lines) - len(points), hashlib.sha256(content).hexdigest()[:16])


def _columns(file: Path, header: list[str]) -> list[int]:
    """Where path and the ten numbers stand."""
    for names in (_COLUMNS, _SHORT_COLUMNS):
        wanted = ("path", *names)
        if set(wanted) <= set(header):
            if double := [name for name in wanted if header.count(name) > 1]:
                raise DataError(f"{file}:1: the column {double[0]} is there twice")
            return [header.index(name) for name in wanted]
    raise DataError(f"{file}:1: expected a header with the columns {_FORM}, but it is {','.join(header)!r}")


def _five(file: Path, line: int, fields: list[str]) -> NDArray[np.float64]:
    values = []
    for field in fields:
        try:
            value = float(field)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{file}:{line}: {field!r} is not a coordinate; expected ten numbers, in pixels")
        values.append(value)
    return np.array(values, dtype=np.float64).reshape(5, 2)
