"""Checkpoints: folders of safetensors and JSON, written aside and renamed when complete, verified on load.

Nothing in a checkpoint is executed when it is read: tensors are safetensors, the rest is JSON, and every file's SHA-256
is in `checkpoint.json`, which is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from frtrain import __version__
from frtrain.errors import CheckpointError
from frtrain.files import file_sha256, sync_file, sync_folder

FORMAT = 1
INDEX = "checkpoint.json"
PARTS = ("backbone", "classifier", "optimizer")

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        tensors: by part: `backbone` and `classifier` (state dicts), `optimizer` (`<parameter>/<slot>`).
        state: `TrainingState` as a dict.
        config: the resolved configuration of the run.
        classes: identity names; the position is the row of the class centres.
        fingerprint: of the training data.
        preprocessing: `Preprocessing` as a dict.
        path: where it was read from; None before it is written.
    """

    tensors: Mapping[str, Tensors]
    state: dict[str, Any]
    config: dict[str, Any]
    classes: list[str]
    fingerprint: str
    preprocessing: dict[str, Any]
    path: Path | None = None


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `folder` so that it either exists complete or not at all.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; what was written is removed.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for part, tensors in checkpoint.tensors.items():
            dense = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(dense, aside / f"{part}.safetensors")
        _write_json(aside / "classes.json", checkpoint.classes)
        index = {
            "format": FORMAT,
            "frtrain": __version__,
            "state": checkpoint.state,
            "fingerprint": checkpoint.fingerprint,
            "preprocessing": checkpoint.preprocessing,
            "config": checkpoint.config,
            "sha256": {path.name: file_sha256(path) for path in sorted(aside.iterdir())},
        }
        _write_json(aside / INDEX, index)
        for path in aside.iterdir():
            sync_file(path)
        replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.rename(replaced)
        aside.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"{folder}: the checkpoint could not be written ({error}); {_free_space(folder.parent)}. Earlier checkpoints of the "
            "run, if any, are intact: make room, then go on with resume=<run folder>"
        ) from None
    return folder


def read_checkpoint(path: Path, parts: tuple[str, ...] = PARTS) -> Checkpoint:
    """Read and verify a checkpoint folder.

    Args:
        path: a folder written by `write_checkpoint`.
        parts: which tensors to load.

    Raises:
        CheckpointError: missing, damaged, truncated, of another format, or not a checkpoint at all (a pickle, say).
    """
    index = read_index(path)
    tensors: dict[str, Tensors] = {}
    for name in (*(f"{part}.safetensors" for part in parts), "classes.json"):
        expected = index["sha256"].get(name)
        file = path / name
        if expected is None or not file.is_file():
            raise CheckpointError(f"{file}: is missing from the checkpoint; use an earlier one of {path.parent}")
        if file_sha256(file) != expected:
            raise CheckpointError(
                f"{file}: is damaged (its content does not match the checksum in {INDEX}); use an earlier checkpoint of "
                f"{path.parent}"
            )
    try:
        for part in parts:
            tensors[part] = load_file(path / f"{part}.safetensors")
        classes = json.loads((path / "classes.json").read_text(encoding="utf-8"))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    return Checkpoint(
        tensors=tensors,
        state=index["state"],
        config=index["config"],
        classes=classes,
        fingerprint=index["fingerprint"],
        preprocessing=index["preprocessing"],
        path=path,
    )


def read_index(path: Path) -> dict[str, Any]:
    """Read `checkpoint.json` of a checkpoint folder: all but the tensors and class names.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    if path.is_file():
        raise CheckpointError(
            f"{path}: is a file, but a checkpoint of frtrain is a folder. Pickled checkpoints (.pt, .pth, .pkl) are refused: "
            "reading one would execute it"
        )
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is not a checkpoint (no {INDEX} in it)") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path / INDEX}: is damaged ({error}); use an earlier checkpoint of {path.parent}"
        ) from None
    keys = ("state", "config", "fingerprint", "preprocessing", "sha256")
    if not isinstance(index, dict) or index.get("format") != FORMAT or any(key not in index for key in keys):
        found = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise CheckpointError(f"{path / INDEX}: has format {found}, this frtrain {__version__} reads format {FORMAT}")
    return index


def load_into(module: torch.nn.Module, tensors: Tensors, what: str, path: Path | None) -> None:
    """Load a state dict, checking names and shapes first.

    Raises:
        CheckpointError: the module has other parameters; names the first difference.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors or name not in own or own[name].shape != tensors[name].shape:
            here = list(own[name].shape) if name in own else "absent"
            there = list(tensors[name].shape) if name in tensors else "absent"
            raise CheckpointError(
                f"{path}: the {what} does not fit: {name} is {there} in the checkpoint and {here} in this run"
            )
    module.load_state_dict(tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]) -> Tensors:
    """The optimizer's state (momentum, ...) as `{"<parameter>/<slot>": tensor}`."""
    return {
        f"{name}/{slot}": value
        for name, parameter in parameters.items()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter], tensors: Tensors, path: Path | None
) -> None:
    """Restore what `optimizer_tensors` returned.

    Raises:
        CheckpointError: the state belongs to parameters that this run does not have, or of another shape.
    """
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        parameter = parameters.get(name)
        per_parameter = slot != "step"
        if parameter is None or (per_parameter and value.shape != parameter.shape):
            raise CheckpointError(
                f"{path}: the optimizer state {key} {list(value.shape)} fits no parameter of this run"
            )
        if per_parameter:
            # The layout of the parameter (channels_last, say), so that the next update computes as the last one did.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][slot] = value


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="ascii")  # names need not be valid Unicode


def _free_space(folder: Path) -> str:
    while not folder.exists():
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
