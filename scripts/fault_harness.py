"""What the fault scripts share: small runs by the command line, waiting for a moment in them, killing, comparing what is left.

A run is started as a user starts it (`python -m frtrain ...`, or torchrun) on crops that are drawn here. Every process of it,
torchrun's and the loader's too, carries a mark in its environment, by which they are all found again, orphans included.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
MARK = "FRTRAIN_FAULTS_RUN"
INJECTIONS = Path(__file__).resolve().parent / "fault_injections"
"""Holds a `sitecustomize.py`, which every Python process imports first where this folder is on PYTHONPATH."""

SMALL = (
    "data=folder",
    "backbone.widths=[16,16,16]",
    "backbone.blocks=[1,1,1]",
    "backbone.embedding_size=32",
    "trainer.batch_size=8",
    "trainer.precision=fp32",
    "trainer.workers=0",
    "trainer.device=cpu",
    "trainer.epochs=null",
    "validation.fraction=0.25",
    "validation.pairs=60",
    "validation.every_epochs=0.5",
    "checkpoint.every_epochs=100",
    "checkpoint.every_steps=5",
    "log.every_steps=1",
    "log.pictures_every_epochs=null",
    "log.progress=none",
)
"""A network of a few thousand weights on a dozen identities: about 30 steps a second on one core, a checkpoint every five."""


def draw_crops(root: Path, identities: int = 12, images: int = 8, size: int = 112) -> Path:
    """Make `<root>/<identity>/<n>.png`: an identity's colour blobs under so much noise that verification is not perfect."""
    for identity in range(identities):
        folder = root / f"person_{identity:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        blobs = np.random.default_rng([identity, 0]).integers(40, 216, (4, 4, 3))
        for sample in range(images):
            noise = np.random.default_rng([identity, sample, 1]).normal(0, 110, (size, size, 3))
            pixels = np.clip(np.kron(blobs, np.ones((size // 4, size // 4, 1))) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{sample}.png", compress_level=1)
    return root


def train_command(
    folder: Path, crops: Path, *overrides: str, processes: int = 1, torchrun: Sequence[str] = (), steps: int = 200
) -> list[str]:
    """The command of a small run in `folder`; the same again goes on with it (`resume=auto`)."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *torchrun]
    given = [f"data.root={crops}", f"run_dir={folder}", f"trainer.max_steps={steps}", *overrides]
    keys = {text.partition("=")[0] for text in given}
    return [*start, "-m", "frtrain", *(text for text in SMALL if text.partition("=")[0] not in keys), *given]


@dataclass
class Started:
    """A run in the background.

    Attributes:
        process: the one that was started: python or torchrun.
        mark: in the environment of all its processes.
        output: what they print, both streams.
    """

    process: subprocess.Popen[bytes]
    mark: str
    output: Path
    began: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def pids(self) -> list[int]:
        """All living processes of the run, the oldest first; zombies do not count."""
        return [pid for pid in _pids() if _alive(pid) and environment_of(pid).get(MARK) == self.mark]

    def rank(self, rank: int) -> int | None:
        """The training process of a rank, or None before it is there."""
        for pid in self.pids():
            environment = environment_of(pid)
            if environment.get("RANK") == str(rank) and parent_of(pid) == self.process.pid:
                return pid
        return None

    def children(self, of: int) -> list[int]:
        """Living child processes: the loader's workers of a training process."""
        return [pid for pid in self.pids() if parent_of(pid) == of]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all processes of the run, until none is missed that was being started meanwhile."""
        for _ in range(3 if number == signal.SIGKILL else 1):
            for pid in self.pids():
                send(pid, number)

    def wait(self, seconds: float = 600) -> int:
        """Wait for the end; the exit status, negative for a signal.

        Raises:
            TimeoutError: it goes on; its processes are killed.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
            raise TimeoutError(f"still running after {seconds:.0f} s:\n{self.text()[-3000:]}") from None

    def orphans(self, seconds: float = 15) -> list[int]:
        """The processes that are still there so long after the end; none is expected."""
        until = time.monotonic() + seconds
        while (left := self.pids()) and time.monotonic() < until:
            time.sleep(0.05)
        return left


def start(command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None) -> Started:
    """Start a run in a session of its own, as a terminal or a scheduler does."""
    mark = uuid.uuid4().hex
    variables = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")])),
        "TORCH_DISTRIBUTED_DEBUG": "OFF",
        **(environment or {}),
        MARK: mark,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("wb") as file:
        stream: IO[bytes] = file
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=variables,
            start_new_session=True,
        )
    return Started(process, mark, output)


def injected(**variables: str) -> dict[str, str]:
    """The environment in which every Python process of a run starts with `fault_injections/sitecustomize.py`."""
    return {"PYTHONPATH": os.pathsep.join([str(INJECTIONS), str(REPOSITORY)]), **variables}


def wait_until(condition: Callable[[], Any], run: Started, seconds: float = 600, interval: float = 0.001) -> bool:
    """Poll until a condition holds: True; False if the run ended before.

    Raises:
        TimeoutError: neither happened; the run is killed.
    """
    until = time.monotonic() + seconds
    while not condition():
        if run.process.poll() is not None:
            return False
        if time.monotonic() > until:
            run.kill()
            raise TimeoutError(f"the awaited moment did not come in {seconds:.0f} s:\n{run.text()[-3000:]}")
        time.sleep(interval)
    return True


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have gone."""
    with contextlib.suppress(ProcessLookupError):
        if pid > 0:  # 0 would be the own group
            os.kill(pid, number)


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty where it cannot be read."""
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in content.split(b"\0") if item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def parent_of(pid: int) -> int:
    """The parent of a process, 0 where it has gone."""
    return int(_stat(pid)[1]) if _stat(pid) else 0


def _pids() -> list[int]:
    return sorted(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())


def _alive(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[0] not in ("Z", "X")


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def resumed_step(text: str) -> int:
    """The step that a run says in its output it goes on from; 0 for a new beginning."""
    found = re.findall(r"going on from \S*step-(\d+)", text)
    return int(found[-1]) if found else 0


def has_traceback(text: str) -> bool:
    """Whether a run shows its insides; the traceback of torchrun itself, which follows any failure of a process, is not its fault."""
    blocks = text.split("Traceback (most recent call last):")[1:]
    return any("torch/distributed/run.py" not in block.partition("\n\n")[0] for block in blocks)


def headline(run: Started) -> str:
    """The error that a run ended with, without the noise around it."""
    text = run.text()
    if has_traceback(text):
        return "TRACEBACK " + text.strip().splitlines()[-1][:160]
    found = re.findall(r"(?:^|\d\d )(?:rank \d+: )?(?:error|configuration):\s*(.*)", text, re.MULTILINE)
    found = found or re.findall(r"^[\d:]{8} (.*(?:was lost|the run hangs).*)", text, re.MULTILINE)
    return found[0] if found else f"exit status {run.process.returncode} without a word"


def short(text: str, folder: Path, most: int = 150) -> str:
    """For a cell of a table: without the path of the run folder and without bars."""
    plain = text.replace(str(folder) + "/", "").replace(str(folder), "RUN").replace("|", "/")
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table on standard output."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    for number, row in enumerate(texts):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.flush()
