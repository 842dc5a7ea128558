"""The folder that a pack is written to: whose it is, who writes to it now, and the journal of what is safely there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from frtrain.errors import ConfigError, DataError
from frtrain.files import write_durably

PACK = "pack.json"
JOURNAL = "pack.json.part"
PART = ".part"
_ALLOWED = re.compile(r"\.|align\.(.*\.)?jsonl?$", re.DOTALL)
VERSION = 1


@dataclass(frozen=True)
class Facts:
    """What `pack.json` says of a complete pack.

    Attributes:
        kind: recordio, webdataset or folder.
        images: how many.
        identities: how many.
        bytes: of all images together.
        content_sha256: of labels and images in their order; the same in every kind of pack (`ContentDigest`).
        names_sha256: of the names of images and identities.
        settings: what the pack was made from and how; plain JSON values.
        version: of this file.
    """

    kind: str
    images: int
    identities: int
    bytes: int
    content_sha256: str
    names_sha256: str
    settings: dict[str, Any]
    version: int = VERSION

    def text(self) -> str:
        """The file's content."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True)
class Journal:
    """What is safely on the disk of a pack that is not complete.

    Attributes:
        kind, settings: as `Facts`.
        images: how many.
        bytes: of these images.
        largest_label: among them; -1 without images.
        content, names: their `ContentDigest`.
        list_bytes: of the list that belong to them.
        container: the state of what holds the images.
        renames: (from, to) that are left to do, once all is there.
        facts: what `pack.json` will say, once all is there.
        version: of this file.
    """

    kind: str
    settings: dict[str, Any]
    images: int = 0
    bytes: int = 0
    largest_label: int = -1
    content: str = ""
    names: str = ""
    list_bytes: int = 0
    container: dict[str, Any] = field(default_factory=dict)
    renames: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, Any] | None = None
    version: int = VERSION


def read_facts(target: Path) -> Facts | None:
    """What `pack.json` says; None where there is none, as beside packs of others.

    Raises:
        DataError: it is damaged.
    """
    values = _read_json(target / PACK)
    return None if values is None else _record(Facts, values, target / PACK)


def read_journal(target: Path) -> Journal | None:
    """The journal of a pack that is not complete; None where there is none.

    Raises:
        DataError: it is damaged.
    """
    values = _read_json(target / JOURNAL)
    return None if values is None else _record(Journal, values, target / JOURNAL)


def write_journal(target: Path, journal: Journal) -> None:
    """Bring the journal to the disk, whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    write_durably(target / JOURNAL, (json.dumps(asdict(journal)) + "\n").encode())


def unwritable(target: Path, error: OSError) -> DataError:
    """The error for a target on which a write failed: no permission, no room."""
    file = error.filename2 or error.filename
    named = "" if file is None else f" ({os.fsdecode(file)!r})"
    if error.errno == errno.ENAMETOOLONG:
        return DataError(
            f"target={target}: a name is longer than this file system allows{named}: choose to=recordio or to=webdataset, "
            "which keep names in a list, or rename it in the source"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return DataError(
            f"target={target} cannot be written: a file stands where a folder is needed{named}: choose another"
        )
    return DataError(
        f"target={target} cannot be written: {error.strerror or error}{named}. Choose a folder with room that you may write "
        "to, or make room; what is done is kept, and the same command goes on from there"
    )


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold a folder, so that two calls cannot write one pack. Released when the process ends, however it ends.

    Raises:
        DataError: another process holds it.
        OSError: there is no such folder.
    """
    descriptor = os.open(target, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"target={target} is in use by another call: wait for it, or stop it") from None
        except OSError:
            pass  # some network file systems cannot lock; the user alone can then keep two calls apart
        yield
    finally:
        os.close(descriptor)


def check_owner(target: Path, beside: Collection[str]) -> None:
    """See that the folder is empty or holds a pack of frtrain; hidden files and the reports of `frtrain align` may lie there.

    Args:
        target: the folder.
        beside: names of files that may lie there besides.

    Raises:
        DataError: it holds something else; names the first.
    """
    if (target / PACK).exists() or (target / JOURNAL).exists():
        return
    names = (path.name for path in target.iterdir() if path.name not in beside)
    foreign = sorted(name for name in names if not _ALLOWED.match(name))
    if foreign:
        raise DataError(
            f"target={target} is not empty, and holds no pack of frtrain (there is {foreign[0]!r}, but no {PACK}): choose "
            "an empty or new folder"
        )


def check_settings(
    target: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    holds: str = "a pack made otherwise",
    replaced: str = "that pack",
) -> None:
    """See that what is in a folder is gone on with as it was begun.

    Args:
        target: the folder.
        before, now: settings, plain values.
        holds, replaced: what lies there, in the words of the message.

    Raises:
        ConfigError: settings differ; names all of them.
    """
    differing = [
        f"  {key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"target={target} holds {holds}:\n"
            + "\n".join(differing)
            + f"\nChoose another target, or replace {replaced} with redo=true."
        )


def check_apart(source: Path, target: Path, read: str, written: str) -> None:
    """See that what is read and what is written do not lie within each other.

    Args:
        source, target: folders.
        read, written: what they hold, in the words of the message.

    Raises:
        ConfigError: they do.
    """
    real_source, real_target = source.resolve(), target.resolve()
    if real_source == real_target:
        raise ConfigError(f"target={target} is the source: choose another place, {read} stay as they are")
    if real_target.is_relative_to(real_source):
        raise ConfigError(f"target={target} lies inside source={source}: {written} would be taken for {read}")
    if real_source.is_relative_to(real_target):
        raise ConfigError(f"source={source} lies inside target={target}: {written} would mingle with {read}")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}); make the pack anew with redo=true") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: is damaged; make the pack anew with redo=true")
    return values


def _record(kind: Any, values: dict[str, Any], path: Path) -> Any:
    if values.get("version") != VERSION:
        raise DataError(f"{path}: is of version {values.get('version')!r}, this frtrain knows version {VERSION}")
    try:
        return kind(**values)
    except TypeError:
        raise DataError(f"{path}: is damaged; make the pack anew with redo=true") from None
