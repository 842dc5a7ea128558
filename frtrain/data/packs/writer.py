"""Writing a pack of images so that a kill at any byte costs seconds, and what is complete is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from frtrain.data.manifest import CLASSES, list_line, read_list, write_classes
from frtrain.data.packs.appended import AppendedFile
from frtrain.data.packs.container import Container, State, checksum_line, part_of
from frtrain.data.packs.digest import ContentDigest
from frtrain.data.packs.folder import CHECKSUMS, FolderContainer
from frtrain.data.packs.recordio import RecordIOContainer
from frtrain.data.packs.target import (
    JOURNAL,
    PACK,
    Facts,
    Journal,
    check_owner,
    check_settings,
    locked,
    read_facts,
    read_journal,
    unwritable,
    write_journal,
)
from frtrain.data.packs.webdataset import WebDatasetContainer
from frtrain.errors import DataError
from frtrain.files import file_sha256, sync_file, sync_folder, write_durably

Kind = Literal["folder", "recordio", "webdataset"]
CONTAINERS: dict[str, type[Container]] = {
    "folder": FolderContainer,
    "recordio": RecordIOContainer,
    "webdataset": WebDatasetContainer,
}

Make = Callable[[Path, State | None], Container]

JOURNAL_IMAGES = 4096
JOURNAL_BYTES = 64 << 20
"""The journal is written after so many images or bytes: as much a kill can cost."""


@dataclass(frozen=True)
class Shards:
    """When a WebDataset shard is full.

    Attributes:
        images: it has so many images, or
        bytes: so many bytes.
    """

    images: int = 10_000
    bytes: int = 256 << 20


class PackWriter:
    """Takes images one after the other. Use `open_pack`.

    Attributes:
        written: images that are there from earlier calls; `append` goes on with the next one.
        facts: what `pack.json` says, once the pack is complete.
    """

    def __init__(self, target: Path, journal: Journal, make: Make, facts: Facts | None):
        self.facts = facts
        self.written = facts.images if facts else journal.images
        self._target = target
        self._journal = journal
        self._is_sound = True
        self._container: Container | None = None
        if facts is not None:
            return
        self._images, self._bytes, self._largest = journal.images, journal.bytes, journal.largest_label
        self._digest = ContentDigest(journal.content, journal.names) if journal.images else ContentDigest()
        container = CONTAINERS[journal.kind]
        self._list = AppendedFile(part_of(target / container.list_name), journal.list_bytes)
        self._first = container.first_number
        self._container = make(target, journal.container or None)

    def append(self, data: bytes, label: int, name: str) -> None:
        """Take the next image, as it is.

        Args:
            data: the encoded image.
            label: of its identity.
            name: relative path with `/`; unique.

        Raises:
            DataError: the target cannot be written or is full, or the kind of pack cannot hold the image.
            ValueError: the pack is complete, or the label is negative.
        """
        if self._container is None:
            raise ValueError(f"{self._target}: the pack is complete")
        if label < 0:
            raise ValueError(f"{name}: label {label} is negative")
        number = self._first + self._images
        self._is_sound = False
        with self._told():
            stored = self._container.place(data, label, name, number)
            self._list.write(list_line(number, label, stored).encode("utf-8", "surrogateescape"))  # before the image
            self._container.add(data, label, stored, number)
        self._digest.add(data, label, stored)
        self._images += 1
        self._bytes += len(data)
        self._largest = max(self._largest, label)
        self._is_sound = True
        images, size = self._images - self._journal.images, self._bytes - self._journal.bytes
        if images >= JOURNAL_IMAGES or size >= JOURNAL_BYTES:
            self.commit()

    def commit(self) -> None:
        """Bring everything to the disk, and say so in the journal.

        Raises:
            DataError: the target is full.
        """
        if self._container is None:
            return
        self._is_sound = False
        with self._told():
            self._list.sync()
            self._container.sync()
            self._journal = Journal(
                kind=self._journal.kind,
                settings=self._journal.settings,
                images=self._images,
                bytes=self._bytes,
                largest_label=self._largest,
                content=self._digest.content,
                names=self._digest.names,
                list_bytes=self._list.length,
                container=self._container.state(),
            )
            write_journal(self._target, self._journal)
        self._is_sound = True

    def finish(self, classes: Sequence[str]) -> Facts:
        """Complete the pack: sidecars, checksums, final names. Does nothing more where it is complete.

        Args:
            classes: identity names by label.

        Raises:
            DataError: there are no images, a label is outside of `classes`, or the target is full.
        """
        if self.facts is not None:
            return self.facts
        assert self._container is not None
        if self._images == 0:
            raise DataError(f"target={self._target}: a pack needs an image at least")
        if self._largest >= len(classes):
            raise DataError(
                f"target={self._target}: an image has label {self._largest}, but there are {len(classes)} identities"
            )
        self.commit()
        self._is_sound = False
        with self._told():
            self._complete(self._container, classes)
            self.facts = put_in_place(self._target, self._journal)
        self._container = None
        return self.facts

    def close(self) -> None:
        """Keep what can be gone on with. A pack that is finished has nothing to keep."""
        if self._container is None:
            return
        try:
            if self._is_sound and self._images > self._journal.images:
                self.commit()
        finally:
            with suppress(OSError):  # what is not in the journal is cut off by the next call
                self._list.close()
                self._container.close()
            self._container = None

    def _complete(self, container: Container, classes: Sequence[str]) -> None:
        target, listing = self._target, container.list_name
        facts = Facts(
            kind=self._journal.kind,
            images=self._images,
            identities=len(classes),
            bytes=self._bytes,
            content_sha256=self._digest.content,
            names_sha256=self._digest.names_with(classes),
            settings=self._journal.settings,
        )
        write_classes(part_of(target / CLASSES), classes)
        renames = [(part_of(Path(name)).name, name) for name in (listing, CLASSES)]
        renames += container.complete(self._labels(part_of(target / listing)), classes)
        container.close()
        self._list.close()
        latest = {final: part for part, final in renames}
        sums = AppendedFile(part_of(target / CHECKSUMS), self._journal.container.get("checksums", 0))
        for final, part in sorted(latest.items()):
            sums.write(checksum_line(container.checksum(final) or file_sha256(target / part), final))
            sync_file(target / part)
        sums.write(checksum_line(hashlib.sha256(facts.text().encode()).hexdigest(), PACK))
        sums.sync()
        sums.close()
        renames.append((part_of(Path(CHECKSUMS)).name, CHECKSUMS))
        self._journal = Journal(**{**vars(self._journal), "renames": renames, "facts": asdict(facts)})
        write_journal(target, self._journal)

    def _labels(self, listing: Path) -> Iterator[int]:
        return (int(label) for _, label, _ in read_list(listing))

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritable(self._target, error) from None


@contextmanager
def open_pack(
    kind: Kind,
    target: Path,
    settings: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    shards: Shards | None = None,
    redo: bool = False,
    beside: Collection[str] = (),
    lock: bool = True,
) -> Iterator[PackWriter]:
    """Begin a pack, or go on with the one that was begun in `target` by an earlier, killed call.

    Leaving the context without `finish` keeps what was appended, for the next call to go on with.

    Args:
        kind: of the pack.
        target: its folder; created if need be.
        settings: everything that the pack depends on, plain JSON values; a later call must have the same.
        classes: identity names by label as far as they are known: a folder pack puts images there whose names have no
            folder of their own.
        shards: when a WebDataset shard is full.
        redo: delete the pack that is there, and begin anew.
        beside: names of the caller's own files that may lie in `target`.
        lock: hold the folder; False where the caller does.

    Raises:
        ConfigError: the pack there was made with other settings.
        DataError: `target` cannot be written, is in use, or holds something else.
    """
    shards = shards or Shards()
    wanted = {"kind": kind, **settings}
    make: Make = RecordIOContainer
    if kind == "folder":
        make = lambda target, state: FolderContainer(target, state, classes)  # noqa: E731 (typed)
    elif kind == "webdataset":
        wanted.update({f"shards.{name}": value for name, value in asdict(shards).items()})
        make = lambda target, state: WebDatasetContainer(target, state, shards.images, shards.bytes)  # noqa: E731
    wanted = json.loads(json.dumps(wanted))
    try:
        target.mkdir(parents=True, exist_ok=True)
        held: AbstractContextManager[None] = locked(target) if lock else nullcontext()
        held.__enter__()
    except OSError as error:
        raise unwritable(target, error) from None
    try:
        try:
            writer = _open(target, kind, wanted, make, redo, beside)
        except OSError as error:
            raise unwritable(target, error) from None
        try:
            yield writer
        finally:
            writer.close()
    finally:
        held.__exit__(None, None, None)


def _open(
    target: Path, kind: str, settings: dict[str, Any], make: Make, redo: bool, beside: Collection[str]
) -> PackWriter:
    check_owner(target, beside)
    if redo:
        forget(target)
    journal, facts = read_journal(target), read_facts(target)
    before = journal or facts
    if before is not None:
        check_settings(target, before.settings, settings)
    if journal is not None and journal.facts is not None:
        facts = put_in_place(target, journal)
    if facts is None and journal is None:
        write_journal(target, Journal(kind, settings))
    return PackWriter(target, journal or Journal(kind, settings), make, facts)


def put_in_place(target: Path, journal: Journal) -> Facts:
    """Give all files of a complete pack their final names; may have been begun by a killed call.

    Raises:
        OSError: the target cannot be written.
    """
    assert journal.facts is not None
    facts = Facts(**journal.facts)
    for part, final in journal.renames:
        with suppress(FileNotFoundError):
            (target / part).replace(target / final)
    write_durably(target / PACK, facts.text().encode())
    (target / JOURNAL).unlink(missing_ok=True)
    sync_folder(target)
    return facts


def forget(target: Path) -> None:
    """Delete a pack, whatever its kind and however complete; other files stay.

    Raises:
        OSError: a file cannot be deleted.
    """
    folders: set[Path] = set()
    for container in _containers(target):
        sidecars = (target / name for name in (container.list_name, CLASSES, CHECKSUMS))
        for path in chain(
            container.files(target), sidecars
        ):  # the list of a folder's images, which may be millions, goes last
            for each in (path, part_of(path)):
                each.unlink(missing_ok=True)
            folders.update(parent for parent in path.parents if parent != target and target in parent.parents)
    (target / f".{JOURNAL}.new").unlink(missing_ok=True)
    for folder in sorted(folders, reverse=True):
        with suppress(OSError):  # not empty: somebody else's files
            folder.rmdir()
    for name in (PACK, JOURNAL):  # at last: a killed call must still know whose folder this is
        (target / name).unlink(missing_ok=True)


def _containers(target: Path) -> Collection[type[Container]]:
    """The kind of the pack, or all where that is damaged."""
    with suppress(DataError):
        pack = read_facts(target) or read_journal(target)
        return [CONTAINERS[pack.kind]] if pack is not None else []
    return CONTAINERS.values()
