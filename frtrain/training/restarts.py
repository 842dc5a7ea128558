"""Starting a run again: by hand, with a command to type, or by torchrun, with `--max-restarts`.

torchrun starts all processes again with the same arguments when one of them has failed. A run whose folder has the time in its
name would then begin anew in another one. So process 0 leaves a note of the folder, which it finds in a later attempt.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from frtrain.config import TrainConfig
from frtrain.errors import FrtrainError
from frtrain.files import write_atomically
from frtrain.processes import Processes
from frtrain.training.run_folder import RunFolder

log = logging.getLogger(__name__)

NOTES = ".attempts"
"""The folder of the notes, within that of the runs."""

FORGET_SECONDS = 90 * 24 * 3600
"""Notes are of no use any more after so long; runs do not last longer."""


class Attempts:
    """What the attempts of one torchrun to do one run know of each other.

    Every machine has its own torchrun, and process 0 may be on another one in the next attempt. So the note is left under the
    name of each of them.

    Args:
        config: of the run, the same in every attempt.
        processes: of the run; all must make this at the same time.
        environment: has torchrun's variables.
    """

    def __init__(self, config: TrainConfig, processes: Processes, environment: Mapping[str, str] = os.environ):
        self.number = int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))
        self.last = int(environment.get("TORCHELASTIC_MAX_RESTARTS", "0"))
        self._folder = Path(config.runs).expanduser() / NOTES
        self._notes: list[Path] = []
        if self.last:
            text = json.dumps([_launch(environment), config.model_dump()], sort_keys=True)
            digest = hashlib.sha256(text.encode()).digest()[:16]
            every = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
            for own in (processes.stack(every) if processes.count > 1 else every[None]).tolist():
                self._notes.append(self._folder / f"{bytes(own).hex()}.json")

    @property
    def more_to_come(self) -> bool:
        """Whether torchrun starts again if this attempt fails."""
        return self.number < self.last

    def going_on(self, config: TrainConfig) -> TrainConfig:
        """The configuration with the folder of an earlier attempt, where there was one; called by process 0."""
        if not self.number:
            return config
        for note in self._notes:
            try:
                folder = Path(json.loads(note.read_text(encoding="utf-8"))["run_folder"])
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("%s: cannot be read (%s)", note, error)
                continue
            if folder.is_dir():
                return config.model_copy(update={"run_dir": str(folder), "resume": "auto"})
        return config

    def note(self, folder: Path) -> None:
        """Leave a note of the run's folder; called by process 0 when it is known where the run begins.

        Raises:
            FrtrainError: it cannot be written.
        """
        if not self.more_to_come:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for old in self._folder.glob("*.json"):
                if time.time() - old.stat().st_mtime > FORGET_SECONDS:
                    old.unlink(missing_ok=True)
            for note in dict.fromkeys(self._notes):
                write_atomically(note, json.dumps({"run_folder": str(folder.resolve())}))
        except OSError as error:
            raise FrtrainError(
                f"{self._folder}: cannot be written ({error.strerror}), and a restart by torchrun would not find the run's "
                "folder; choose another runs=... or leave --max-restarts out"
            ) from None


def _launch(environment: Mapping[str, str]) -> str:
    """What all attempts of one torchrun have in common, and no other torchrun has.

    Its folder of log and error files has a random name, and below it one folder for each attempt. Where it was told to have
    none, it is the process that started this one.
    """
    folder, attempt, _ = environment.get("TORCHELASTIC_ERROR_FILE", "").rpartition("/attempt_")
    return f"{environment.get('TORCHELASTIC_RUN_ID', '')} {folder if attempt else os.getppid()}"


def how_to_go_on(folder: Path, environment: Mapping[str, str] = os.environ) -> str:
    """The command that goes on with a run, with as many processes as it has now."""
    machines = int(environment.get("GROUP_WORLD_SIZE", "1"))
    start = "python"
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        start = f"torchrun --nproc-per-node={environment.get('LOCAL_WORLD_SIZE', '1')}"
    if machines > 1:
        start += (
            f" --nnodes={machines} --rdzv-backend=c10d --rdzv-endpoint={environment.get('MASTER_ADDR', 'HOST')}:29400"
        )
    command = f"{start} -m frtrain {shlex.quote(f'resume={folder}')}"
    return f"on each machine: {command}" if machines > 1 else command


def where_it_stands(folder: RunFolder | None, attempts: Attempts) -> str:
    """The last checkpoint of a run that has failed, and how to go on from it."""
    steps = [] if folder is None else folder.steps()
    if folder is None or not steps:
        stands, then, command = "No checkpoint was written yet", "begin anew", ""
    else:
        stands, then = f"The last checkpoint is {folder.checkpoint(steps[-1])}", "go on from it"
        command = f". Go on with: {how_to_go_on(folder.path)}"
    if attempts.more_to_come:
        return (
            f"{stands}; torchrun starts all again (restart {attempts.number + 1} of {attempts.last}), and they {then}"
        )
    return stands + command
