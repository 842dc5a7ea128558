"""One opened RecordIO pack: which of its records are images, and their labels."""

from __future__ import annotations

import logging
import re
import struct
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.data.formats.recordio import (
    EXACT_FLOAT32,
    FRAME,
    IMAGE_HEADER,
    LARGEST_PAYLOAD,
    MAGIC,
    RecordReader,
    image_start,
    padded,
    unpack_record,
)
from frtrain.data.formats.recordio_table import RecordTable, read_table
from frtrain.data.index_cache import load_index, save_index, stamp_of
from frtrain.errors import DataError, ImageError

log = logging.getLogger(__name__)

MAIN = "train.rec"
LARGEST_LABEL = 2**53
RECORD_HEAD = struct.Struct("<4sII")
"""Magic word, length, and number of labels after the header."""

NO_LABELS = FRAME.size + IMAGE_HEADER.size
"""Where the image file starts in a record of one frame without further labels."""

_NUMBERED = re.compile(r"(.*?)(\d+)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Pack:
    """One `.rec` and the images in it, in the order of the file.

    Attributes:
        reader: of the file.
        numbers: `int64 [N]`, record numbers.
        offsets: `int64 [N]`, where the records start.
        extents: `int64 [N]`, bytes that they occupy.
        sizes: `int64 [N]`, bytes of the image files.
        labels: `int64 [N]`, as in the file.
    """

    reader: RecordReader
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    extents: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]

    @property
    def path(self) -> Path:
        """The `.rec`."""
        return self.reader.path

    def __len__(self) -> int:
        return len(self.numbers)

    def describe(self, at: int) -> str:
        """The place of an image, for messages."""
        return _where(self.path, self.numbers[at], self.offsets[at])

    def encoded(self, at: int) -> bytes:
        """The image file, by one read.

        Raises:
            ImageError: the record is damaged.
        """
        try:
            payload = self.reader.payload(int(self.offsets[at]), int(self.extents[at]))
            return payload[image_start(payload, "") :]
        except ImageError as error:
            raise ImageError(self.describe(at), error.reason) from None

    def encoded_batch(self, at: NDArray[np.int64]) -> list[bytes | ImageError]:
        """Several image files, each by one read, or why it cannot be had. A record of one frame is cut out at once."""
        rows = zip(
            at.tolist(), self.offsets[at].tolist(), self.extents[at].tolist(), self.sizes[at].tolist(), strict=True
        )
        found: list[bytes | ImageError] = []
        for place, offset, extent, size in rows:
            start = extent - padded(size)
            try:
                frames = self.reader.read(offset, extent)
                if RECORD_HEAD.unpack_from(frames) == (MAGIC, start - FRAME.size + size, (start - NO_LABELS) // 4):
                    found.append(frames[start : start + size])
                else:
                    found.append(self.encoded(place))
            except ImageError as error:
                found.append(ImageError(self.describe(place), error.reason))
        return found

    def beginning(self, at: int) -> bytes:
        """The first bytes of the image file, four at least where it has them.

        Raises:
            ImageError: the record is damaged.
        """
        offset, extent = int(self.offsets[at]), int(self.extents[at])
        start = extent - padded(int(self.sizes[at]))
        head = self.reader.read(offset, max(FRAME.size, min(start + 4, extent)))
        _, word = FRAME.unpack_from(head)
        return head[start:] if word <= LARGEST_PAYLOAD else self.encoded(at)[:4]


def pack_files(root: Path) -> list[Path]:
    """The `.rec` that `root` is, holds as `train.rec`, or holds in parts, in the order of their numbers.

    Raises:
        DataError: there is none, or there are several that are not parts of one.
    """
    try:
        if root.suffix == ".rec" and root.is_file():
            return [root]
        if not root.is_dir():
            raise DataError(f"data.root={root}: no such folder or .rec file")
        found = sorted(path for path in root.iterdir() if path.suffix == ".rec" and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"data.root={root}: cannot be listed ({error.strerror})") from None
    if not found:
        raise DataError(f"data.root={root} has no .rec file: expected {root / MAIN}")
    if root / MAIN in found:
        others = ", ".join(path.name for path in found if path.name != MAIN)
        if others:
            log.warning("data.root=%s: only %s is read, not %s", root, MAIN, others)
        return [root / MAIN]
    parts = [(match[1], int(match[2]), path) for path in found if (match := _NUMBERED.fullmatch(path.stem))]
    if len(found) == 1:
        return found
    if len(parts) < len(found) or len({name for name, _, _ in parts}) > 1:
        raise DataError(
            f"data.root={root} has several packs: {', '.join(path.name for path in found)}; choose one with "
            f"data.root={found[0]}, or number the parts of one pack: train_0.rec, train_1.rec, ..."
        )
    return [path for _, _, path in sorted(parts)]


def open_pack(path: Path) -> Pack:
    """Open a `.rec` with the `.idx` beside it, or without one. What it takes to find the records is kept.

    Raises:
        DataError: the files cannot be read, are damaged or do not belong together, or hold no images with labels.
    """
    path = path.absolute()
    reader = RecordReader(path)
    table = _kept_table(reader, path.with_suffix(".idx"))
    beyond = reader.size - int(table.extents.sum())
    if beyond > 0:
        log.warning(
            "%s: %s leaves %d of %d bytes out, records that are not read: it is of another file or cut short. Delete it to "
            "have all records found",
            *(path, path.with_suffix(".idx").name, beyond, reader.size),
        )
    images = _images(reader, table)
    labels = _whole_labels(reader, table, images)
    return Pack(
        reader, table.numbers[images], table.offsets[images], table.extents[images], table.images[images], labels
    )


def _kept_table(reader: RecordReader, index: Path) -> RecordTable:
    has_index = index.is_file()
    stamp = stamp_of([reader.path, index] if has_index else [reader.path])
    key = f"recordio 1:{reader.path}"
    names = [field.name for field in fields(RecordTable)]
    kept = load_index(key, stamp)
    if kept is not None and kept.keys() == set(names):
        return RecordTable(**kept)  # type: ignore[arg-type]  # their types are those that were kept
    if not has_index:
        log.info("%s: there is no %s; records are found by reading the file from end to end", reader.path, index.name)
    table = read_table(reader, index if has_index else None)
    save_index(key, stamp, {name: getattr(table, name) for name in names})
    return table


def _images(reader: RecordReader, table: RecordTable) -> NDArray[np.int64]:
    """Rows of the table that are images."""
    header = np.flatnonzero((table.numbers == 0) & (table.images == 0))
    if len(header) and (end := _end_of_images(reader, int(table.offsets[header[0]]))) is not None:
        if end > EXACT_FLOAT32:
            return np.flatnonzero((table.numbers > 0) & (table.images > 0))
        images = np.flatnonzero((table.numbers > 0) & (table.numbers < end))
        if len(images) != end - 1:
            raise DataError(
                f"{reader.path}: its header record announces the images 1 to {end - 1}, but only {len(images)} of them are "
                f"there; delete {reader.path.with_suffix('.idx').name} to have it made anew, or get the pack again"
            )
        return images
    without = np.flatnonzero(table.images == 0)
    if len(without):
        first = _where(reader.path, table.numbers[without[0]], table.offsets[without[0]])
        log.warning("%s: %d records hold no image and are left out, the first is %s", reader.path, len(without), first)
    return np.flatnonzero(table.images > 0)


def _end_of_images(reader: RecordReader, offset: int) -> int | None:
    """What InsightFace's header record says: the number after the last image's. `None`: it is no such record."""
    where = reader.where(offset)
    record = unpack_record(reader.payload(offset), where)
    if len(record.labels) < 2:
        return None
    end, last = record.labels[:2].tolist()
    if not (1 <= end <= last <= LARGEST_LABEL and end.is_integer()):
        raise DataError(
            f"{where}: is InsightFace's header record, but its labels are {end:g} and {last:g}: expected the numbers of the "
            "first identity record and after the last"
        )
    return int(end)


def _whole_labels(reader: RecordReader, table: RecordTable, images: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(images):
        raise DataError(f"{reader.path}: holds no images")
    labels = table.labels[images].astype(np.float64)
    good = (labels >= 0) & (labels <= LARGEST_LABEL) & (np.floor(labels) == labels)
    if not good.all():
        row = images[np.flatnonzero(~good)[0]]
        raise DataError(
            f"{_where(reader.path, table.numbers[row], table.offsets[row])}: has the label {table.labels[row]:g}, but an "
            f"identity is a whole number from 0 on; {np.count_nonzero(~good)} of {len(images)} images are so"
        )
    if labels.max() > EXACT_FLOAT32:
        log.warning(
            "%s: labels go up to %d, and float32, in which RecordIO keeps them, does not hold all numbers above %d: identities "
            "may have become one",
            *(reader.path, labels.max(), EXACT_FLOAT32),
        )
    return labels.astype(np.int64)


def _where(path: Path, number: np.int64, offset: np.int64) -> str:
    return f"{path}: record {number} at byte {offset}"
