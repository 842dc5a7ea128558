"""What the fault scripts share: small runs by the command line, waiting for a moment in them, killing, comparing what is left.

A run is started as a user starts it (`python -m frtrain ...`, or torchrun) on crops that are drawn here. Every process of it,
torchrun's and the loader's too, carries a mark in its environment, by which they are all found again, orphans included.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
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

TIMED = re.compile(r"speed|seconds|memory|time|eta|wait|mib|gib", re.IGNORECASE)
"""Tags whose values depend on the clock and the machine."""


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


# What a run folder says


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a line that a crash cut short is left out."""
    try:
        lines = (folder / "metrics.jsonl").read_text(errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict) and "step" in line]


def last_step(folder: Path) -> int:
    """The last step of which something was published, 0 before the first."""
    return max((int(line["step"]) for line in metrics(folder)), default=0)


def saved_steps(folder: Path) -> list[int]:
    """Steps whose checkpoint has its final name and its index."""
    found = [path.parent.name for path in (folder / "checkpoints").glob("step-*/checkpoint.json")]
    return sorted(int(name.removeprefix("step-")) for name in found if name.removeprefix("step-").isdecimal())


def names_in_checkpoints(folder: Path) -> list[str]:
    try:
        return [path.name for path in (folder / "checkpoints").iterdir()]
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


def last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / f"step-{saved_steps(folder)[-1]:08d}"


def weights_of(checkpoint: Path) -> dict[str, bytes]:
    """The tensor files of a checkpoint, byte for byte."""
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in sorted(checkpoint.rglob("*.safetensors"))}


def differences(reference: Path, folder: Path) -> list[str]:
    """What a run that was disturbed has otherwise than one that was not: weights, progress, metrics, links, remains."""
    found = []
    one, other = last_checkpoint(reference), last_checkpoint(folder)
    if one.name != other.name:
        found.append(f"last checkpoint {other.name}, not {one.name}")
    expected, here = weights_of(one), weights_of(other)
    if expected.keys() != here.keys():
        found.append(f"files {sorted(here)}, not {sorted(expected)}")
    found += [f"{name} differs" for name in expected if name in here and expected[name] != here[name]]
    states = [json.loads((path / "checkpoint.json").read_text()).get("state") for path in (one, other)]
    if states[0] != states[1]:
        found.append(f"state {states[1]}, not {states[0]}")
    found += metric_differences(metrics(reference), metrics(folder))
    for link in ("last", "best"):
        targets = [
            str(path.readlink()) if path.is_symlink() else None
            for path in (run / "checkpoints" / link for run in (reference, folder))
        ]
        if targets[0] != targets[1]:
            found.append(f"{link} -> {targets[1]}, not {targets[0]}")
    found += [f"left over: {path}" for path in leftovers(folder)]
    return found + event_differences(reference, folder)


def metric_differences(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Published lines that are missing, double, or of other values; what the clock decides is left aside."""

    def lines_by_kind(lines: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], list[dict[str, Any]]]:
        kinds: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for line in lines:
            values = {key: value for key, value in line.items() if not TIMED.search(key)}
            tags = sorted(key for key in line if key not in ("step", "epoch"))
            kind = tags[0].partition("/")[0] if tags else ""
            if len(values) > 2 or not tags:
                kinds.setdefault((int(line["step"]), kind), []).append(values)
        return kinds

    wanted, here = lines_by_kind(expected), lines_by_kind(found)
    told = []
    for step, kind in sorted(wanted.keys() | here.keys()):
        one, other = wanted.get((step, kind), []), here.get((step, kind), [])
        if len(one) != len(other):
            told.append(f"metrics of {kind} at step {step}: {len(other)} lines, not {len(one)}")
        elif one != other:
            keys = [key for key in one[0].keys() | other[0].keys() if one[0].get(key) != other[0].get(key)]
            told.append(
                f"metrics at step {step}: {keys[0]} is {other[0].get(keys[0])}, not {one[0].get(keys[0])}"
                + (f" (and {len(keys) - 1} more)" if len(keys) > 1 else "")
            )
    return told[:4] + ([f"... {len(told) - 4} more lines of metrics"] if len(told) > 4 else [])


def leftovers(folder: Path) -> list[str]:
    """Temporary and hidden files below a run folder; a run that has ended leaves none."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.name
        if name.startswith(".") or name.endswith((".part", ".old", ".new", ".tmp", ".lock")):
            found.append(str(path.relative_to(folder)))
    return found


def event_differences(reference: Path, folder: Path) -> list[str]:
    """Whether TensorBoard reads the event files, and shows each published step once."""
    if not (reference / "tensorboard").is_dir():
        return []
    try:
        expected, found = event_steps(reference), event_steps(folder)
    except Exception as error:  # whatever the reader stumbles over is the finding
        return [f"TensorBoard's events cannot be read ({type(error).__name__}: {error})"]
    told = []
    for tag in expected:
        if found.get(tag) != expected[tag]:
            missing = sorted(set(expected[tag]) - set(found.get(tag, [])))
            double = len(found.get(tag, [])) - len(set(found.get(tag, [])))
            told.append(f"TensorBoard's {tag}: {len(missing)} steps missing {missing[:5]}, {double} double")
    return told[:2] + ([f"... {len(told) - 2} more tags of TensorBoard"] if len(told) > 2 else [])


def event_steps(folder: Path) -> dict[str, list[int]]:
    """Steps of each scalar as TensorBoard shows them, after it has dropped what a restart superseded."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every restart
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [event.step for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
        if not TIMED.search(tag)
    }


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table on standard output."""
    texts = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    for number, row in enumerate(texts):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    sys.stdout.flush()


def emptied(folder: Path) -> Path:
    """A folder without anything in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
