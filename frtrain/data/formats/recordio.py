"""RecordIO, the container of MXNet and InsightFace (`train.rec`), read and written without MXNet.

A file is a sequence of frames, all numbers little-endian:

    uint32 magic word 0xced7230a
    uint32 the part in the upper 3 bits, the length in bytes in the lower 29
    data, then zero bytes up to a multiple of 4

A record is one frame of part 0 (whole). Where the payload holds the magic word itself, at a multiple of 4 bytes from
its start, the writer leaves that word out and goes on in a new frame: part 1 (start), 2 (middle) ..., 3 (end). The
reader puts the word back between them. So the magic word at a multiple of 4 always starts a frame.

The payload of an image record is `<IfQQ`: flag, label, number, second number (0), then the image file. A flag above 0
counts float32 labels that follow this header; the label within the header is 0 then.

InsightFace packs (its `face2rec`; read by `MXFaceDataset` of arcface_torch) have three kinds of records, keyed by the
lines of `train.idx`:

    0                  `header_record`: no image, two labels: the key of the first identity record, and that of the
                       last one plus 1. With this record, images are the keys from 1 to the first identity record,
                       exclusive; without it (flag 0 in record 0) every key is an image
    1 .. images        images with their label, all images of an identity one after the other
    images + 1 ..      `identity_record` per identity: no image, two labels: the key of its first image, and that of its
                       last one plus 1
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from frtrain.errors import DataError, ImageError

MAGIC = struct.pack("<I", 0xCED7230A)
LARGEST_PAYLOAD = 2**29 - 1
EXACT_FLOAT32 = 2**24
"""Labels are float32 in the file: whole numbers above this are not all kept."""

WHOLE, START, MIDDLE, END = range(4)

FRAME = struct.Struct("<4sI")
IMAGE_HEADER = struct.Struct("<IfQQ")


def pack_record(data: bytes, label: float | Sequence[float], number: int) -> bytes:
    """The payload of an image record.

    Args:
        data: the image file.
        label: one label, stored in the header; or several, stored after it.
        number: of the record, its key in the `.idx`.

    Raises:
        DataError: a whole label that float32 does not hold.
    """
    several = isinstance(label, Iterable)
    labels = tuple(label) if isinstance(label, Iterable) else (label,)
    for one in labels:
        if abs(one) > EXACT_FLOAT32 and not _is_float32(one):
            raise DataError(
                f"label {one} of record {number}: RecordIO keeps labels as float32, which has not all numbers above "
                f"{EXACT_FLOAT32}"
            )
    if not several:
        return IMAGE_HEADER.pack(0, labels[0], number, 0) + data
    if not labels:
        raise ValueError(f"record {number}: a label is required")
    return IMAGE_HEADER.pack(len(labels), 0.0, number, 0) + struct.pack(f"<{len(labels)}f", *labels) + data


def _is_float32(value: float) -> bool:
    try:
        return bool(struct.unpack("<f", struct.pack("<f", value))[0] == value)
    except OverflowError:
        return False


def header_record(images: int, classes: int) -> bytes:
    """The payload of InsightFace's record 0: images have the keys 1 .. `images`, identity records the `classes` after.

    Raises:
        DataError: more records than the float32 of this record can count; such a pack goes without it, with nothing but
            images from key 0 on, which InsightFace reads as well.
    """
    return pack_record(b"", [images + 1, images + 1 + classes], 0)


def identity_record(start: int, end: int, number: int) -> bytes:
    """The payload of an identity record: the keys of its images are `start` .. `end` - 1, its own is `number`.

    Raises:
        DataError: as `header_record`.
    """
    return pack_record(b"", [start, end], number)


def index_line(number: int, offset: int) -> str:
    """The line of an `.idx` for the record of key `number` that starts at byte `offset`."""
    return f"{number}\t{offset}\n"


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """An image record taken apart.

    Attributes:
        labels: `float32 [L]`: one, or all of several.
        number: the record's own number.
        data: the image file; empty in InsightFace's header and identity records.
    """

    labels: NDArray[np.float32]
    number: int
    data: bytes


def unpack_record(payload: bytes, where: str) -> ImageRecord:
    """Take the payload of an image record apart; `where` only names it in errors.

    Raises:
        ImageError: it is too short for its header or its labels.
    """
    start = image_start(payload, where)
    flag, label, number, _ = IMAGE_HEADER.unpack_from(payload)
    labels = (
        np.frombuffer(payload, "<f4", flag, IMAGE_HEADER.size) if flag else np.array([label], dtype=np.float32)
    )  # a view: a hostile count of labels takes no memory of its own
    return ImageRecord(labels, number, payload[start:])


def image_start(payload: bytes, where: str) -> int:
    """Where the image file starts in the payload of an image record.

    Raises:
        ImageError: as `unpack_record`.
    """
    if len(payload) < IMAGE_HEADER.size:
        raise ImageError(where, f"has {len(payload)} bytes, too few for the header of an image record")
    start = IMAGE_HEADER.size + 4 * int.from_bytes(payload[:4], "little")
    if start > len(payload):
        raise ImageError(where, f"announces more labels than its {len(payload)} bytes hold")
    return start


def frames_of(payload: bytes) -> bytes:
    """The record as it stands in the file: its frames, padded.

    Raises:
        DataError: the payload is longer than a record can be.
    """
    if len(payload) > LARGEST_PAYLOAD:
        raise DataError(f"a record holds at most {LARGEST_PAYLOAD:,} bytes, this one has {len(payload):,}")
    cuts = _magic_words(payload)
    padding = bytes(-len(payload) % 4)
    if not cuts:
        return FRAME.pack(MAGIC, len(payload)) + payload + padding
    pieces = []
    for number, (start, end) in enumerate(zip([0] + [cut + 4 for cut in cuts], cuts + [len(payload)], strict=True)):
        part = START if number == 0 else END if number == len(cuts) else MIDDLE
        pieces += [FRAME.pack(MAGIC, part << 29 | (end - start)), payload[start:end]]
    return b"".join(pieces) + padding


def _magic_words(payload: bytes) -> list[int]:
    """Multiples of 4 at which the magic word stands in the payload."""
    found = []
    at = payload.find(MAGIC)
    while at >= 0:
        if at % 4 == 0:
            found.append(at)
        at = payload.find(MAGIC, at + 1)
    return found


class RecordWriter:
    """Writes records one after the other.

    Attributes:
        length: bytes written so far, where the next record will start. After `sync` they are on the disk, and another
            writer opened with this length goes on there.
    """

    def __init__(self, path: Path, length: int = 0):
        """Open a file.

        Args:
            path: the `.rec`.
            length: bytes of an existing file to keep, a former `length`; what lies beyond is cut off. 0: a new file.

        Raises:
            DataError: the existing file is shorter.
            OSError: it cannot be opened.
        """
        self.path = path
        self.length = length
        present = path.stat().st_size if length else 0
        if present < length:
            raise DataError(f"{path}: cannot go on at byte {length}: the file ends at {present}")
        self._file = path.open("r+b" if length else "wb", buffering=1 << 20)
        self._file.truncate(length)
        self._file.seek(length)

    def append(self, payload: bytes) -> int:
        """Write one record. Returns the byte at which it starts.

        Raises:
            DataError: the payload is longer than a record can be.
            OSError: the disk is full; `length` still ends at the last whole record.
        """
        frames = frames_of(payload)
        self._file.write(frames)
        offset = self.length
        self.length += len(frames)
        return offset

    def flush(self) -> None:
        """Hand what was written to the operating system: other processes see it, a killed process does not lose it."""
        self._file.flush()

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close; may be called again."""
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class RecordReader:
    """Reads records at any offset, from any number of threads and forked processes at once.

    There is no shared file position: every read names its offset. Pickling opens the file anew on the other side. No
    length is believed before it was compared with the size of the file, so damage costs an error, never memory.

    Attributes:
        path: the `.rec`.
        size: of the file in bytes.
    """

    def __init__(self, path: Path):
        """Open a file.

        Raises:
            DataError: there is none, it cannot be read, or is no regular file.
        """
        self.path = path
        self._descriptor = -1
        try:
            if not path.is_file():
                raise DataError(f"{path}: no such file")
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self.size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self.size

    def __setstate__(self, state: tuple[Path, int]) -> None:
        path, size = state
        RecordReader.__init__(self, path)
        if self.size != size:
            raise DataError(f"{path}: had {size} bytes when it was opened and has {self.size} now")

    def __del__(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            os.close(descriptor)

    def where(self, offset: int) -> str:
        """The place of a record, for messages."""
        return f"{self.path}: record at byte {offset}"

    def payload(self, offset: int, stored: int | None = None) -> bytes:
        """The payload of the record that starts at byte `offset`.

        Args:
            offset: a multiple of 4.
            stored: what `extent` says of this record, if that is known: then there is one read only.

        Raises:
            ImageError: no record starts there, it is damaged, or it reaches beyond `stored` or the end of the file.
        """
        stored = self.extent(offset) if stored is None else stored
        frames = self.read(offset, stored)
        magic, word = FRAME.unpack_from(frames) if stored >= FRAME.size else (b"", 0)
        length = word & LARGEST_PAYLOAD
        if magic == MAGIC and word == length and FRAME.size + padded(length) == stored:
            return frames[FRAME.size : FRAME.size + length]
        return self._joined(frames, offset)

    def extent(self, offset: int) -> int:
        """Bytes that the record at `offset` occupies in the file, all its frames with their padding.

        Raises:
            ImageError: no record starts there, or it reaches beyond the end of the file.
        """
        at, part = offset, START
        while part in (START, MIDDLE):
            part, length = self._frame(self.read(at, FRAME.size), offset, at, self.size)
            at += FRAME.size + padded(length)
        return at - offset

    def scan(self) -> Iterator[tuple[int, int]]:
        """Offset and extent of all records, in the order of the file, without an index.

        Raises:
            ImageError: as `extent`; the file is damaged from there on.
        """
        at = 0
        while at < self.size:
            stored = self.extent(at)
            yield at, stored
            at += stored

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset` on.

        Raises:
            ImageError: the file has fewer, or cannot be read.
        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise ImageError(self.where(offset), f"reaches beyond the end of the file ({self.size} bytes)")
        try:
            data = os.pread(self._descriptor, count, offset)
            while len(data) < count:  # the operating system reads at most 2 GiB at once
                more = os.pread(self._descriptor, count - len(data), offset + len(data))
                if not more:
                    raise ImageError(self.where(offset), "cannot be read: the file was cut after it was opened")
                data += more
        except OSError as error:
            raise ImageError(self.where(offset), f"cannot be read ({error.strerror})") from None
        return data

    def _joined(self, frames: bytes, offset: int) -> bytes:
        pieces = []
        at, part = 0, START
        while part in (START, MIDDLE):
            if at + FRAME.size > len(frames):
                raise ImageError(self.where(offset), "is damaged: its last part is missing")
            part, length = self._frame(frames[at : at + FRAME.size], offset, offset + at, offset + len(frames))
            pieces.append(frames[at + FRAME.size : at + FRAME.size + length])
            at += FRAME.size + padded(length)
        return MAGIC.join(pieces)

    def _frame(self, head: bytes, offset: int, at: int, limit: int) -> tuple[int, int]:
        """Part and length of the frame at byte `at` of the record at `offset`; nothing may reach beyond byte `limit`."""
        magic, word = FRAME.unpack(head)
        part, length = word >> 29, word & LARGEST_PAYLOAD
        if magic != MAGIC:
            reason = "no record starts here" if at == offset else f"is damaged: no part of it starts at byte {at}"
        elif part not in ((WHOLE, START) if at == offset else (MIDDLE, END)):
            reason = f"is damaged: a part of kind {part} cannot stand at byte {at}"
        elif at + FRAME.size + padded(length) > limit:
            reason = f"is damaged: announces {length} bytes at byte {at}, but only {limit - at - FRAME.size} are left"
        else:
            return part, length
        raise ImageError(self.where(offset), reason)


def padded(length: int) -> int:
    """The next multiple of 4."""
    return length + (-length % 4)
