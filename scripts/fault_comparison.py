"""What a run folder says, and what one has otherwise than another: weights, progress, metrics, TensorBoard, remains."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TIMED = re.compile(r"speed|seconds|memory|time|eta|wait|mib|gib", re.IGNORECASE)
"""Tags whose values depend on the clock and the machine."""


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
