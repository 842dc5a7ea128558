"""Writing a checkpoint: each process its own files into a folder aside, then process 0 completes and renames it.

Until then the folder is called `.<name>.part`. Every process ends its part of the work with `process-<rank>.json`, which tells
process 0 what it has written; these leave the folder when `checkpoint.json`, the last file, comes in.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from frtrain.classifier.selection import Shard
from frtrain.errors import CheckpointError, TrainingError
from frtrain.files import sync_folder
from frtrain.processes import Processes
from frtrain.training.checkpoint_index import CLASSES, INDEX, Facts, Index, StoredFile
from frtrain.training.checkpoint_reading import covers
from frtrain.training.restarts import how_to_go_on
from frtrain.training.shards import Piece, Pieces, own_duty
from frtrain.training.tensor_files import HashedFile, NotFiniteError, write_tensors

FINITE = ("backbone", "classifier", "ema")
"""Parts that are of no use with infinities in them: a step's guard looks at gradients, not at what became of the weights."""


@dataclass(frozen=True)
class Content:
    """What goes into a checkpoint.

    Attributes:
        pieces: what this process has of all tensors.
        facts: all else.
        classes: identity names.
    """

    pieces: Pieces
    facts: Facts
    classes: Sequence[str]

    @property
    def bytes(self) -> int:
        """Of all tensors together, whoever writes them."""
        return sum(piece.whole_bytes for named in self.pieces.values() for piece in named.values())


def folder_aside(folder: Path) -> Path:
    """Where the checkpoint `folder` is until it is complete."""
    return folder.with_name(f".{folder.name}.part")


def write_own_files(folder: Path, content: Content, processes: Processes) -> None:
    """Write what this process has to write, and wait until it is on the disk. Talks to nobody.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; says how much room was there and is needed.
        TrainingError: a weight or a statistic is not finite; names it.
    """
    aside = folder_aside(folder)
    with _told(folder, content):
        aside.mkdir(parents=True, exist_ok=True)
        files = {}
        ending = f"-{processes.rank + 1}-of-{processes.count}" if processes.count > 1 else ""
        for part, pieces in own_duty(content.pieces, processes).items():
            if pieces or processes.rank == 0:  # a part without tensors is a part, too
                name = f"{part}{ending}.safetensors"
                files[name] = _write_part(aside / name, part, pieces, int(content.facts.state["step"]))
        if processes.rank == 0:
            files[CLASSES] = _write_list(aside / CLASSES, content.classes)
        report = {name: file.as_dict() for name, file in files.items()}
        _write(aside / _report_name(processes.rank), json.dumps(report).encode("ascii"))


def is_written(folder: Path, rank: int) -> bool:
    """Whether a process has done its part."""
    return (folder_aside(folder) / _report_name(rank)).is_file()


def complete(folder: Path, content: Content, count: int) -> None:
    """Make a checkpoint of what `count` processes have written; done by process 0 alone.

    Raises:
        CheckpointError: the disk is full, or files of another process are not here.
    """
    aside = folder_aside(folder)
    with _told(folder, content):
        files: dict[str, StoredFile] = {}
        for rank in range(count):
            files |= _reported(folder, rank)
        _check_all_there(folder, content, files)
        index = Index(content.facts, files, count)
        for rank in range(count):
            (aside / _report_name(rank)).unlink()
        _write(aside / INDEX, index.to_json())
        sync_folder(aside)
        replaced = folder.with_name(f".{folder.name}.old")  # `RunFolder.remove_leftovers` knows it
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        aside.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        sync_folder(folder.parent)


def discard(folder: Path) -> None:
    """Remove what was written of a checkpoint that will not be completed."""
    shutil.rmtree(folder_aside(folder), ignore_errors=True)


def _report_name(rank: int) -> str:
    return f"process-{rank}.json"


def _write_part(path: Path, part: str, pieces: Mapping[str, Piece], step: int) -> StoredFile:
    try:
        written = write_tensors(path, {name: piece.tensor for name, piece in pieces.items()}, part in FINITE)
    except NotFiniteError as error:
        raise TrainingError(
            f"{part}.{error} is not finite after step {step}: no checkpoint is written, earlier ones are as they were. Usual "
            "remedies: a smaller optimizer.lr, a longer scheduler.warmup, trainer.clip_norm"
        ) from None
    return StoredFile(written.sha256, written.bytes, part, {name: piece.rows for name, piece in pieces.items()})


def _write_list(path: Path, texts: Sequence[str]) -> StoredFile:
    """A JSON list with one text a line; ASCII, since names need not be valid Unicode."""
    with path.open("wb") as raw:
        file = HashedFile(raw)
        file.write(b"[\n")
        for number, text in enumerate(texts):
            file.write(f"{',' if number else ' '}{json.dumps(text)}\n".encode("ascii"))
        file.write(b"]\n")
        written = file.synced()
    return StoredFile(written.sha256, written.bytes, None, {})


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as raw:
        file = HashedFile(raw)
        file.write(content)
        file.synced()


def _reported(folder: Path, rank: int) -> dict[str, StoredFile]:
    aside = folder_aside(folder)
    try:
        report = json.loads((aside / _report_name(rank)).read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: process {rank} has written, but its files are not here. All machines of a run must see the same run "
            "folder: choose one on a common file system with runs=... or run_dir=..."
        ) from None
    files = {name: StoredFile.from_dict(values) for name, values in report.items()}
    for name, file in files.items():
        if (aside / name).stat().st_size != file.bytes:
            raise CheckpointError(f"{aside / name}: has not the length that process {rank} has written")
    return files


def _check_all_there(folder: Path, content: Content, files: Mapping[str, StoredFile]) -> None:
    found: dict[tuple[str | None, str], list[Shard | None]] = {}
    for file in files.values():
        for name, rows in (file.tensors or {}).items():
            found.setdefault((file.part, name), []).append(rows)
    for part, named in content.pieces.items():
        for name in named:
            pieces = sorted(found.get((part, name), []), key=lambda rows: 0 if rows is None else rows.first)
            if not pieces or not covers(pieces):
                raise CheckpointError(f"{folder}: the processes have not written all rows of {part}.{name}")


@contextmanager
def _told(folder: Path, content: Content) -> Iterator[None]:
    """What the system refuses within this context is told with the room that there is at that moment."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint could not be written ({error}); it needs {content.bytes:,} bytes, and "
            f"{_free_bytes(folder.parent)} were free there. What was written of it is removed. {_advice(folder)}"
        ) from None


def _free_bytes(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        return "an unknown number"


def _advice(folder: Path) -> str:
    """Advice that holds: to resume only where there is something to resume from."""
    try:
        earlier = sorted(
            path.parent.name for path in folder.parent.glob(f"[!.]*/{INDEX}") if not path.parent.is_symlink()
        )
    except OSError:
        earlier = []
    if not earlier:
        return "There is no earlier checkpoint to go on from: make room, or take fewer bytes, then start the run again"
    return f"{earlier[-1]} is intact: make room, then go on with: {how_to_go_on(folder.parent.parent)}"
