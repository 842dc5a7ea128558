"""`checkpoint.json`: which files a checkpoint has, what is in them, and everything that is not a tensor.

It is written last, and a folder without it is no checkpoint. Its own `checksum` is over all the rest of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from frtrain import __version__
from frtrain.classifier.selection import Shard
from frtrain.errors import CheckpointError

FORMAT = 2
INDEX = "checkpoint.json"
CLASSES = "classes.json"


class DamagedCheckpointError(CheckpointError):
    """A file of a checkpoint is missing or is not what was written: an earlier checkpoint may do."""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint holds besides tensors.

    Attributes:
        state: `TrainingState` as a dict.
        config: the resolved configuration of the run.
        fingerprint: of the training data.
        preprocessing: `Preprocessing` as a dict.
    """

    state: dict[str, Any]
    config: dict[str, Any]
    fingerprint: str
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint.

    Attributes:
        sha256: of its content, hexadecimal.
        bytes: its length; None in format 1, which did not tell.
        part: of the checkpoint whose tensors it has; None for class names.
        tensors: which ones, with their rows where they are not all; None in format 1: all that are in it, with all rows.
    """

    sha256: str
    bytes: int | None
    part: str | None
    tensors: Mapping[str, Shard | None] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = {
            name: None if shard is None else [shard.first, shard.last, shard.total]
            for name, shard in (self.tensors or {}).items()
        }
        return {"sha256": self.sha256, "bytes": self.bytes, "part": self.part, "tensors": rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StoredFile:
        """The reverse.

        Raises:
            KeyError, TypeError, ValueError: it has another form.
        """
        tensors = {name: None if rows is None else Shard(*map(int, rows)) for name, rows in values["tensors"].items()}
        part = values["part"]
        return cls(str(values["sha256"]), int(values["bytes"]), None if part is None else str(part), tensors)


@dataclass(frozen=True)
class Index:
    """The content of `checkpoint.json`.

    Attributes:
        facts: all that is neither tensor nor class name.
        files: by name, all but this one.
        processes: how many wrote it.
        format: 2, or 1 where one process had written everything.
    """

    facts: Facts
    files: Mapping[str, StoredFile]
    processes: int = 1
    format: int = FORMAT

    def to_json(self) -> bytes:
        """The file's content."""
        values = {
            "format": FORMAT,
            "frtrain": __version__,
            "processes": self.processes,
            **asdict(self.facts),
            "files": {name: file.as_dict() for name, file in sorted(self.files.items())},
        }
        return json.dumps({**values, "checksum": _checksum(values)}, indent=1).encode("ascii")


def read_index(path: Path) -> Index:
    """Read `checkpoint.json` of a checkpoint folder: all but the tensors and class names.

    Raises:
        DamagedCheckpointError: missing or damaged.
        CheckpointError: cannot be read, has a format that is not known, or is not a checkpoint at all (a pickle, say).
    """
    if path.is_file():
        raise CheckpointError(
            f"{path}: is a file, but a checkpoint of frtrain is a folder. Pickled checkpoints (.pt, .pth, .pkl) are refused: "
            "reading one would execute it"
        )
    try:
        values = json.loads((path / INDEX).read_bytes())
    except FileNotFoundError:
        raise DamagedCheckpointError(f"{path}: is not a checkpoint (no {INDEX} in it)") from None
    except PermissionError as error:
        raise CheckpointError(f"{path / INDEX}: cannot be read ({error.strerror})") from None
    except (ValueError, OSError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    found = values.get("format") if isinstance(values, dict) else type(values).__name__
    if found not in (1, FORMAT):
        text = f"has format {found}, this frtrain {__version__} reads format 1 and {FORMAT}"
        if isinstance(values, dict) and values.pop("checksum", None) == _checksum(values):
            raise CheckpointError(f"{path / INDEX}: {text}")
        raise _damaged(path, text)
    try:
        return _index_of(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None


def _index_of(values: dict[str, Any]) -> Index:
    facts = Facts(
        dict(values["state"]), dict(values["config"]), str(values["fingerprint"]), dict(values["preprocessing"])
    )
    if values["format"] == 1:
        files = {
            name: StoredFile(str(sha256), None, None if name == CLASSES else name.removesuffix(".safetensors"), None)
            for name, sha256 in values["sha256"].items()
        }
        processes = 1
    else:
        if values.pop("checksum") != _checksum(values):
            raise ValueError("its content does not match its checksum")
        files = {name: StoredFile.from_dict(file) for name, file in values["files"].items()}
        processes = int(values["processes"])
    for name in files:
        if Path(name).name != name:
            raise ValueError(f"{name} is no name of a file in this folder")
    return Index(facts, files, processes, int(values["format"]))


def _damaged(path: Path, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{path / INDEX}: is damaged ({reason}); use an earlier checkpoint of {path.parent}")


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()
