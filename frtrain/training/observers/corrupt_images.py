"""`corrupt_images.txt`: the images of a run that could not be read, each once, whichever process met them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from frtrain.data.corrupt import CorruptImages
from frtrain.errors import FrtrainError
from frtrain.processes import Processes

log = logging.getLogger(__name__)


class CorruptImagesFile:
    """Collects what the processes have met; process 0 logs and writes what is new, also to an earlier call of the run.

    Args:
        path: of the file; each line is a name and what is wrong with it.
        met: what this process meets.
        processes: those that train together.

    Raises:
        FrtrainError: an earlier file cannot be read.
    """

    def __init__(self, path: Path, met: CorruptImages, processes: Processes):
        self.path = path
        self.met = met
        self.processes = processes
        self._written: set[str] = set()
        self._waiting: list[str] = []
        self._failing = False
        if processes.rank == 0 and path.exists():
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise FrtrainError(f"{path}: cannot be read ({error.strerror})") from None
            self._written = set(text.split("\n")) - {""}

    def collect(self) -> int:
        """Gather, log and write; returns how many are in the file (on process 0). All processes must call it.

        A file that cannot be written is told once and tried again; training does not depend on it.
        """
        lines = dict.fromkeys(map(_one_line, _gathered(self.met.unreported(), self.processes)))
        if self.processes.rank == 0:
            new = [line for line in lines if line not in self._written and line not in self._waiting]
            for line in new:
                log.warning("%s; training goes on without it", line)
            self._waiting += new
            if self._waiting:
                self._append()
        return len(self._written) + len(self._waiting)

    def _append(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in self._waiting))
        except OSError as error:
            if not self._failing:
                log.warning("%s: cannot be written (%s); it is tried again", self.path, error.strerror)
            self._failing = True
            return
        self._failing = False
        self._written.update(self._waiting)
        self._waiting = []


def _one_line(text: str) -> str:
    """A name may hold line breaks, and bytes that are no text."""
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return printable.replace("\r", "\\r").replace("\n", "\\n")


def _gathered(texts: list[str], processes: Processes) -> list[str]:
    """The texts of all processes, in the order of their ranks."""
    if processes.count == 1:
        return texts
    message = torch.frombuffer(bytearray(json.dumps(texts).encode("ascii")), dtype=torch.uint8)
    sizes = processes.stack(torch.tensor(len(message) if texts else 0))
    if not int(sizes.max()):
        return []
    padded = torch.zeros(max(int(sizes.max()), len(message)), dtype=torch.uint8)
    padded[: len(message)] = message
    parts = processes.stack(padded[: int(sizes.max())])
    gathered = []
    for part, size in zip(parts, sizes.tolist(), strict=True):
        if size:
            gathered += json.loads(bytes(part[:size].tolist()))
    return gathered
