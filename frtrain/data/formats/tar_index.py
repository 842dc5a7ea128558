"""Where everything is in a tar shard, found by walking its headers: what random access needs.

Written from POSIX 1003.1 (`ustar`, `pax`) and the GNU tar manual (`L` records, base-256 numbers).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from frtrain.data.formats.tar import BLOCK, is_inside
from frtrain.errors import DataError

COMPRESSED = {".gz": "gunzip", ".tgz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}
"""Endings of compressed shards, and what unpacks them."""

LARGEST_CONTENT = 1 << 20
"""Most bytes of a member that comes with its content."""

_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_WINDOW = 4096
"""Bytes per read: a header and, where members are as small as labels, the ones behind it."""
_BATCH = 2048
"""Headers that are verified together."""
_LONGEST_RECORD = 1 << 20
_END = bytes(BLOCK)
_PAX = ord("x")
_COMMON = b"0x"  # the two kinds of header that nearly all are: files, and records that say more of the next file
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_OCTAL = re.compile(rb"[0-7]{1,12}")
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


@dataclass(frozen=True)
class Members:
    """Some consecutive regular files of a shard.

    Attributes:
        names: relative paths with `/`.
        offsets: where each one's data begin, in bytes.
        sizes: bytes of data.
        contents: the data of those that were asked for, else None.
    """

    names: list[str]
    offsets: list[int]
    sizes: list[int]
    contents: list[bytes | None]


@dataclass(frozen=True)
class TarIndex:
    """All regular files of a shard, in its order.

    Attributes:
        names: relative paths with `/`.
        offsets: `int64 [N]`, where each one's data begin, in bytes.
        sizes: `int64 [N]`, bytes of data.
    """

    names: list[str]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


def index_shard(path: Path) -> TarIndex:
    """Index a shard; only headers are read.

    Raises:
        DataError: as `walk`.
    """
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    for found in walk(path):
        names += found.names
        offsets += found.offsets
        sizes += found.sizes
    return TarIndex(names, np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64))


def walk(path: Path, content_of: tuple[str, ...] = ()) -> Iterator[Members]:
    """The regular files of a shard in its order, some thousand at a time. Folders are passed over.

    Args:
        path: the shard.
        content_of: endings of names (`(".cls",)`) whose data come too: of labels, not of images.

    Raises:
        DataError: the file is missing, empty, compressed, damaged or cut off, or a member is a link, a device, or named
            so that it would lie outside. Names the shard and the byte.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DataError(f"{path}: is not a regular file")
            yield from _Walk(path, descriptor, content_of).members()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def refusal_of_compressed(path: Path, ending: str) -> DataError:
    """Why a compressed shard is not read, and what to do."""
    return DataError(
        f"{path}: is compressed: no image in it can be read without unpacking all before it. "
        f"Unpack it once with `{COMPRESSED[ending]}`; images are compressed already and hardly grow by that"
    )


class _Walk:
    """One pass over the headers of a shard. Nothing comes out before its header's checksum was verified."""

    def __init__(self, path: Path, descriptor: int, content_of: tuple[str, ...]):
        self.path = path
        self.descriptor = descriptor
        self.content_of = content_of
        self.size = os.fstat(descriptor).st_size
        self.window = b""
        self.window_at = 0
        self.overrides = False  # whether records gave the file that follows a name or a size:
        self.long_name: bytes | None = None
        self.long_size: int | None = None
        self._begin_batch()

    def _begin_batch(self) -> None:
        self.files: list[bytes] = []  # headers
        self.files_at: list[int] = []
        self.sizes: list[int] = []
        self.small: list[bytes | None] = []  # data that happened to be in the window
        self.names: dict[int, bytes] = {}  # of files whose name is not in their header, by row
        self.records: list[bytes] = []  # headers that are no files'
        self.records_at: list[int] = []

    def members(self) -> Iterator[Members]:
        """Walk to the end blocks."""
        if self.size == 0:
            raise DataError(f"{self.path}: is empty (0 bytes)")
        start = os.pread(self.descriptor, 8, 0)
        for magic, ending in _MAGIC.items():
            if start.startswith(magic):
                raise refusal_of_compressed(self.path, ending)
        at: int | None = 0
        is_empty = True
        while at is not None:
            try:
                at = self._follow(at)
            except DataError:
                self._verify()  # a damaged header before this one may have led astray: then it is the one to name
                raise
            self._verify()
            if self.files:
                is_empty = False
                yield self._named()
            self._begin_batch()
        if is_empty:
            raise DataError(f"{self.path}: holds no files")

    def _follow(self, at: int) -> int | None:
        """Collect a batch of headers from `at` on; returns where the next one is, None at the end blocks."""
        window, window_at, end = self.window, self.window_at, self.size  # opening a data set waits for this loop
        add_header, add_at = self.files.append, self.files_at.append
        add_size, add_small = self.sizes.append, self.small.append
        for _ in range(_BATCH):
            start = at - window_at
            header = window[start : start + BLOCK]
            if len(header) < BLOCK:
                header, start = self._move_window(at), 0
                window, window_at = self.window, at
            kind = header[156]
            if kind in _COMMON:
                try:
                    size = int(header[124:135], 8)
                except ValueError:
                    size = -1
                if size < 0 or header[135] not in b"\0 ":
                    size = self._number(header, at)
                if kind == _PAX:
                    data = self._record(at, header, size)
                    if b"path=" in data or b"size=" in data or b"sparse" in data:  # most state times only
                        self._apply(_pax_records(data), at)
                else:
                    if self.overrides:
                        size = self._overridden(size)
                    add_header(header)
                    add_at(at)
                    add_size(size)
                    add_small(window[start + BLOCK : start + BLOCK + size] if size <= BLOCK else None)
            elif header == _END:
                self._check_end(at)
                return None
            else:
                size = self._other(at, header)
            following = at + BLOCK + (size + BLOCK - 1 & -BLOCK)
            if following > end:
                self._fail(at, f"a member of {size} bytes reaches beyond the file's {end} bytes: it was cut off")
            at = following
        return at

    def _move_window(self, at: int) -> bytes:
        self.window, self.window_at = os.pread(self.descriptor, _WINDOW, at), at
        if len(self.window) < BLOCK:
            self._fail(at, "the file ends here, without the archive's end blocks: it was cut off")
        return self.window[:BLOCK]

    def _overridden(self, size: int) -> int:
        """Note the name that records gave to the file at hand; returns the size they gave."""
        if self.long_name is not None:
            self.names[len(self.files)] = self.long_name
        if self.long_size is not None:
            size = self.long_size
        self.overrides, self.long_name, self.long_size = False, None, None
        return size

    def _record(self, at: int, header: bytes, size: int) -> bytes:
        """The data of a record that says more of the next file than its header can."""
        self.records.append(header)
        self.records_at.append(at)
        if size > _LONGEST_RECORD:
            self._fail(at, f"a record of {size} bytes for a name; {_LONGEST_RECORD} are the most it can have")
        start = at + BLOCK - self.window_at
        data = self.window[start : start + size]
        return data if len(data) == size else self._pread(size, at + BLOCK)

    def _other(self, at: int, header: bytes) -> int:
        """Files of old archives, folders, GNU's long names; returns the size of the data. The rest is refused."""
        kind = header[156:157]
        size = 0 if kind == b"5" else self._number(header, at)
        if kind in (b"\0", b"7"):
            size = self._overridden(size)
            self.files.append(header)
            self.files_at.append(at)
            self.sizes.append(size)
            self.small.append(None)
        elif kind == b"L":
            self.long_name = self._record(at, header, size).partition(b"\0")[0]
            self.overrides = True
        elif kind == b"g":
            records = _pax_records(self._record(at, header, size))
            if records is None or b"path" in records or b"size" in records:
                self._fail(at, "a record gives all members one name or size: it is damaged")
        else:
            self.records.append(header)
            self.records_at.append(at)
            name = _text(self.long_name or _name(header))
            if kind == b"5":
                self.overrides, self.long_name, self.long_size = False, None, None
            elif kind != b"K":  # the target of a link; the link itself follows
                what = _REFUSED.get(kind, f"of the unknown type {kind!r}")
                self._fail(
                    at, f"member '{name}' is {what}; only plain files are read. Pack anew, with `tar --dereference`"
                )
        return size

    def _apply(self, records: dict[bytes, bytes] | None, at: int) -> None:
        if records is None or not re.fullmatch(rb"\d{1,18}", records.get(b"size", b"0")):
            self._fail(at, "a record of names and sizes is damaged")
        if any(key.startswith(b"GNU.sparse") for key in records):
            self._fail(at, "a sparse file follows; only plain files are read. Pack anew, without `--sparse`")
        self.overrides = True
        self.long_name = records.get(b"path", self.long_name)
        if b"size" in records:
            self.long_size = int(records[b"size"])

    def _number(self, header: bytes, at: int) -> int:
        """The size in a header: octal digits, or base-256 where the highest bit is set."""
        field = header[124:136]
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0")
        if not _OCTAL.fullmatch(digits):
            self._fail(at, f"the size in this header is no number ({field!r}): it is damaged, or no tar file")
        return int(digits, 8)

    def _pread(self, size: int, at: int) -> bytes:
        data = os.pread(self.descriptor, size, at)
        if len(data) < size:
            self._fail(at, "the file ends within a member: it was cut off")
        return data

    def _verify(self) -> None:
        """Compare the checksums of the headers collected so far.

        Raises:
            DataError: one differs; names the first.
        """
        damaged = [at for at, fits in zip(self.files_at, verified(self.files), strict=True) if not fits]
        damaged += [at for at, fits in zip(self.records_at, verified(self.records), strict=True) if not fits]
        if damaged:
            self._fail(min(damaged), "the header's checksum does not fit: it is damaged, or no tar file")

    def _named(self) -> Members:
        names = _names(self.files)
        for row, name in self.names.items():
            names[row] = name
        joined = b"\0" + b"\0".join(names) + b"\0"
        if b".." in joined or b"\0/" in joined or b"\0\0" in joined or joined.count(b"\0") != len(names) + 1:
            self._check_names(names)
        texts = joined[1:-1].decode("utf-8", "surrogateescape").split("\0")
        contents: list[bytes | None] = [None] * len(texts)
        if self.content_of:
            for row, text in enumerate(texts):
                if text.endswith(self.content_of):
                    contents[row] = self._content(row, text)
        return Members(texts, [at + BLOCK for at in self.files_at], self.sizes, contents)

    def _check_names(self, names: list[bytes]) -> None:
        for at, name in zip(self.files_at, map(_text, names), strict=True):
            if not is_inside(name):
                self._fail(at, f"member '{name}' has a name that leads out of the archive's folder; it is refused")

    def _content(self, row: int, name: str) -> bytes:
        size, at = self.sizes[row], self.files_at[row]
        if size > LARGEST_CONTENT:
            self._fail(at, f"member '{name}' has {size} bytes; as a label it can have {LARGEST_CONTENT} at most")
        data = self.small[row]
        return data if data is not None and len(data) == size else self._pread(size, at + BLOCK)

    def _check_end(self, at: int) -> None:
        """Archives joined by `cat` go on after the first one's end, where most readers stop without a word."""
        if os.pread(self.descriptor, 1 << 16, at).strip(b"\0"):
            self._fail(
                at,
                "data follow the archive's end blocks: it is damaged, or archives were joined by `cat` "
                "(join them with `tar --concatenate`)",
            )

    def _fail(self, at: int, what: str) -> NoReturn:
        raise DataError(f"{self.path}: byte {at}: {what}")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":  # GNU tar keeps times there, after its own magic
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _names(headers: list[bytes]) -> list[bytes]:
    """`_name` of many headers."""
    block = np.frombuffer(b"".join(headers), dtype=np.uint8).reshape(-1, BLOCK)
    names: list[bytes] = np.ascontiguousarray(block[:, :100]).view("S100").ravel().tolist()  # ends at the last NULs
    for row in np.flatnonzero(block[:, 345]):
        names[row] = _name(headers[row])
    if b"\0" in b"".join(names):
        return [_name(header) for header in headers]
    return names


def _pax_records(data: bytes) -> dict[bytes, bytes] | None:
    """The records `<length> <key>=<value>\\n` of a pax header; None if they are damaged."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at]:
        found = _PAX_RECORD.match(data, at)
        if found is None:
            return None
        end = at + int(found[1])
        if end <= found.end() or end > len(data) or data[end - 1] != 10:
            return None
        records[found[2]] = data[found.end() : end - 1]
        at = end
    return records


def verified(headers: list[bytes]) -> NDArray[np.bool_]:
    """Which of the 512-byte headers have the checksum that they state: `bool [N]`.

    The sum of all bytes, those of the checksum's own field taken as spaces.
    """
    block = np.frombuffer(b"".join(headers), dtype=np.uint8).reshape(-1, BLOCK)
    sums = block.sum(axis=1, dtype=np.uint32) - block[:, 148:156].sum(axis=1, dtype=np.uint32) + np.uint32(8 * 32)
    digits = block[:, 148:154].astype(np.int64) - 48
    stated = digits @ (8 ** np.arange(5, -1, -1))
    for row in np.flatnonzero(((digits < 0) | (digits > 7)).any(axis=1)):  # not the usual six digits
        field = block[row, 148:156].tobytes().strip(b" \0")
        stated[row] = int(field, 8) if _OCTAL.fullmatch(field) else -1
    return sums == stated
