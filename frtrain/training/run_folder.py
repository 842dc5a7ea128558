"""The folder of a run: configuration, environment, log, metrics, checkpoints."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import torch
from omegaconf import OmegaConf

from frtrain import __version__
from frtrain.errors import CheckpointError, FrtrainError
from frtrain.files import make_writable_folder, write_atomically
from frtrain.training.checkpoint_index import INDEX, read_index

log = logging.getLogger(__name__)

STEP_FOLDER = "step-"

NETWORK_SECONDS = 20.0
"""After which a file of one machine is seen by all that share the file system."""

_locks: set[TextIO] = set()
"""Of folders in use. Processes forked from this one close them: a loader's process that outlives it would keep others out."""


def _close_locks() -> None:
    for lock in _locks:
        lock.close()


os.register_at_fork(after_in_child=_close_locks)


class RunFolder:
    """Paths below `runs/<name>/<time>/`, and the checkpoints in it."""

    def __init__(self, path: Path, created: bool = False):
        self.path = path
        self.created = created
        self.created_parent = False
        self.in_use = False
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.log = path / "train.log"
        self.tensorboard = path / "tensorboard"
        self.report = path / "report.html"
        self.corrupt_images = path / "corrupt_images.txt"

    @classmethod
    def create(cls, runs: str, name: str, run_dir: str | None) -> RunFolder:
        """Make the folder: `run_dir` if given, else a new `<runs>/<name>/<time>`.

        Raises:
            FrtrainError: it cannot be made or written to.
        """
        path = Path(run_dir).expanduser() if run_dir else Path(runs).expanduser() / name
        created, created_parent = not run_dir or not path.exists(), not run_dir and not path.exists()
        try:
            if not run_dir:
                path = _new_folder(path)
            make_writable_folder(path)
        except OSError as error:
            key = "run_dir" if run_dir else "runs"
            raise FrtrainError(
                f"{path}: the run folder cannot be written ({error.strerror}); choose another with {key}=..."
            ) from None
        folder = cls(path, created)
        folder.created_parent = created_parent
        folder.lock()
        return folder

    def lock(self) -> None:
        """Keep every other process out until this one ends or calls `unlock`.

        Raises:
            FrtrainError: another run is using the folder.
        """
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise FrtrainError(
                f"{self.path}: another run is writing here; wait for it or choose another run_dir"
            ) from None
        _locks.add(self._lock)

    def check_seen(self) -> None:
        """See that this is the folder that process 0, maybe of another machine, has locked.

        Raises:
            FrtrainError: it is not.
        """
        deadline = time.monotonic() + NETWORK_SECONDS
        while not (self.path / ".lock").is_file():
            if time.monotonic() > deadline:
                raise FrtrainError(
                    f"{self.path}: the run folder of process 0 is not seen on {platform.node()}, where each process must write "
                    "its part of the checkpoints; choose a folder on a common file system with runs=... or run_dir=..."
                )
            time.sleep(0.1)

    def unlock(self) -> None:
        """Let others in; removes the folder if this process made it and trained nothing in it."""
        (self.path / ".lock").unlink(missing_ok=True)
        if self.created and not self.in_use and not self.steps():
            doomed = self.path.with_name(f".{self.path.name}.doomed")
            with suppress(OSError):  # at once, before another process finds half of it and writes into that
                self.path.rename(doomed)
            for path in (doomed, self.path):
                shutil.rmtree(path, ignore_errors=True)
            if self.created_parent:
                with suppress(OSError):  # other runs are in it by now
                    self.path.parent.rmdir()
        _locks.discard(self._lock)
        self._lock.close()  # last: until here nobody else may have begun in the folder

    def write_facts(
        self, config: dict[str, Any], overrides: list[str], device: torch.device, processes: int = 1
    ) -> None:
        """Write `config.yaml` (resolved), `overrides.yaml` and `environment.json`.

        Raises:
            FrtrainError: the disk is full.
        """
        facts = {
            "frtrain": __version__,
            "command": sys.argv,
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": str(device),
            "processes": processes,
            "threads": torch.get_num_threads(),
            "packages": {name: _version(name) for name in ("torch", "torchvision", "numpy", "hydra-core", "omegaconf")},
        }
        texts = {
            "config.yaml": OmegaConf.to_yaml(OmegaConf.create(config)),
            "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(overrides)),
            "environment.json": json.dumps(facts, indent=1),
        }
        for name, text in texts.items():
            try:
                write_atomically(self.path / name, text)
            except OSError as error:
                raise FrtrainError(f"{self.path / name}: cannot be written ({error.strerror})") from None

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of `step`."""
        return self.checkpoints / f"{STEP_FOLDER}{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, rising."""
        return [step for step in self.steps_begun() if (self.checkpoint(step) / INDEX).is_file()]

    def steps_begun(self) -> list[int]:
        """Steps that have the folder of a checkpoint, complete or damaged, rising."""
        folders = self.checkpoints.glob(f"{STEP_FOLDER}*") if self.checkpoints.is_dir() else ()
        names = [path.name.removeprefix(STEP_FOLDER) for path in folders if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def point(self, link: str, step: int) -> None:
        """Let `checkpoints/<link>` (`last`, `best`) name the checkpoint of `step`."""
        aside = self.checkpoints / f".{link}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        aside.symlink_to(self.checkpoint(step).name)
        aside.replace(self.checkpoints / link)

    def prune(self, keep: int, best_step: int | None, keep_every: int | None = None) -> None:
        """Remove all checkpoints but the newest `keep`, the best, and those of multiples of `keep_every` steps."""
        for step in self.steps()[:-keep]:
            if step != best_step and (keep_every is None or step % keep_every):
                # Renamed first: a kill while deleting must not leave a folder that looks complete.
                doomed = self.checkpoints / f".{self.checkpoint(step).name}.doomed"
                shutil.rmtree(doomed, ignore_errors=True)
                self.checkpoint(step).rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)

    def set_damaged_aside(self, step: int) -> Path:
        """Move a damaged checkpoint to `checkpoints/damaged/`; returns where it is now."""
        aside = self.checkpoints / "damaged"
        aside.mkdir(exist_ok=True)
        name, count = self.checkpoint(step).name, 1
        while (target := aside / (name if count == 1 else f"{name}-{count}")).exists():
            count += 1
        self.checkpoint(step).rename(target)
        return target

    def supersede_after(self, step: int) -> None:
        """Move checkpoints later than `step` to `checkpoints/superseded/`: the run goes on from there instead."""
        for other in [other for other in self.steps_begun() if other > step]:
            target = self.checkpoints / "superseded" / self.checkpoint(other).name
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(exist_ok=True)
            self.checkpoint(other).rename(target)
            log.info("%s is superseded: moved to %s", self.checkpoint(other).name, target.parent)

    def point_again(self, step: int, best_step: int | None) -> None:
        """Let `last` and `best` name what a resumed run goes on from: a kill may have come between a checkpoint and its links."""
        steps = self.steps()
        if step in steps:
            self.point("last", step)
        if best_step in steps:
            self.point("best", best_step)
        elif best_step is None or not (self.checkpoints / "best").exists():  # it named one that was set aside
            (self.checkpoints / "best").unlink(missing_ok=True)

    def remove_leftovers(self) -> None:
        """Remove what killed processes left half-written or half-removed, in the folder and among its checkpoints."""
        if self.checkpoints.is_dir():
            for path in self.checkpoints.glob(f".{STEP_FOLDER}*.old"):  # was to be replaced by one that did not come
                place = path.with_name(path.name.removeprefix(".").removesuffix(".old"))
                if not place.exists() and (path / INDEX).is_file():
                    path.rename(place)
            for path in self.checkpoints.glob(".*"):
                if path.is_symlink() or path.is_file():
                    path.unlink(missing_ok=True)
                else:
                    shutil.rmtree(path, ignore_errors=True)
        for pattern in (".*.part", ".*.new", ".writable.*"):
            for path in self.path.rglob(pattern):  # reports and profiles are written into folders of their own
                if path.is_file():
                    path.unlink(missing_ok=True)


def checkpoint_of(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a user means: a checkpoint folder itself, or the last one of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    given = Path(path).expanduser()
    if not given.exists():
        raise CheckpointError(f"{given}: no such run or checkpoint")
    if given.is_file() or (given / INDEX).is_file():
        read_index(given)
        return given.resolve()
    folder = RunFolder(given.parent if given.name == "checkpoints" else given)
    steps = folder.steps()
    if not steps:
        raise CheckpointError(
            f"{given}: holds no checkpoint. Expected a run folder (with checkpoints/{STEP_FOLDER}...) or a checkpoint "
            f"folder (with {INDEX})"
        )
    return folder.checkpoint(steps[-1])


def run_folder_of(path: str | os.PathLike[str]) -> Path:
    """The run folder that a run, `checkpoints/` or checkpoint path belongs to.

    Raises:
        CheckpointError: there is no checkpoint at `path`.
    """
    return checkpoint_of(path).parent.parent


def _new_folder(parent: Path) -> Path:
    """Make `<parent>/<time>`, or `<time>-2`, ... where another run of the same second was faster."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    path, count = parent / stamp, 1
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            count += 1
            path = parent / f"{stamp}-{count}"
        else:
            return path


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
