"""Crops on their way into a pack: appended to files in a hidden folder of the target, until all are there."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path, PurePosixPath

from frtrain.alignment.crops import CropSink
from frtrain.alignment.report import Record, SpoolPlace
from frtrain.errors import DataError

SPOOL_FOLDER = ".align-spool"


class SpoolSink(CropSink):
    """Appends crops to a file of its own; the record of each says where it is.

    What a killed call appended without a record is never read.
    """

    def __init__(self, target: Path):
        super().__init__(target)
        self._name = f"{secrets.token_hex(6)}.crops"
        self._file: int | None = None
        self._end = 0

    def _keep(self, output: str, data: bytes) -> SpoolPlace:
        if self._file is None:
            path = self.target / SPOOL_FOLDER / self._name
            path.parent.mkdir(exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            written = 0
            while written < len(data):  # on a nearly full disk a part is written first, and no error raised
                written += os.pwrite(self._file, data[written:], self._end + written)
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        place = SpoolPlace(self._name, self._end, len(data))
        self._end += len(data)
        return place

    def close(self) -> None:
        """Bring the crops to the disk."""
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
            self._file = None


class Spool:
    """The crops that wait in a target."""

    def __init__(self, target: Path):
        self._folder = target / SPOOL_FOLDER
        self._sizes: dict[str, int] = {}
        self._open: dict[str, int] = {}

    def holds(self, record: Record) -> bool:
        """Whether the whole crop is there."""
        place = record.spool
        if place is None or PurePosixPath(place.file).name != place.file:
            return False
        if place.file not in self._sizes:
            path = self._folder / place.file
            self._sizes[place.file] = path.stat().st_size if path.is_file() else -1
        return place.offset + place.length <= self._sizes[place.file]

    def read(self, place: SpoolPlace) -> bytes:
        """The encoded crop.

        Raises:
            DataError: it is not there.
        """
        path = self._folder / place.file
        try:
            if place.file not in self._open:
                self._open[place.file] = os.open(path, os.O_RDONLY)
            data = os.pread(self._open[place.file], place.length, place.offset)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
        if len(data) != place.length:
            raise DataError(
                f"{path}: ends at {place.offset + len(data)} and lacks a crop; the same command makes it anew"
            )
        return data

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def remove(self) -> None:
        """Delete all crops that wait."""
        self.close()
        if self._folder.is_dir():
            shutil.rmtree(self._folder)
