"""Checkpoints: folders of safetensors and JSON, written aside and renamed when complete, verified on load.

Nothing in a checkpoint is executed when it is read: tensors are safetensors, the rest is JSON, and every file's SHA-256
is in `checkpoint.json`, which is written last. Each process writes what it has, and reads what it needs, whatever number of
processes or division of the tensors wrote it. `torch.distributed.checkpoint` does that, too, but keeps its `.metadata` as a
pickle, and its asynchronous save runs collectives in a thread beside those of training; hence a format of our own.

This module has the simple uses: a checkpoint in memory, written and read as a whole. The others:
`checkpoint_writing` and `checkpoint_reading` (by pieces), `checkpoint_thread` (while training goes on), `restoring` (into a
run), `starting` (weights for a new run).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frtrain.processes import ALONE
from frtrain.training.checkpoint_index import Facts
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.checkpoint_writing import Content, complete, discard, write_own_files
from frtrain.training.shards import collected

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        tensors: by part: `backbone` and `classifier` (state dicts), `optimizer` (`<parameter>/<slot>`), and what else the run
            keeps.
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
        TrainingError: a weight is not finite.
    """
    facts = Facts(checkpoint.state, checkpoint.config, checkpoint.fingerprint, checkpoint.preprocessing)
    content = Content(collected(checkpoint.tensors), facts, checkpoint.classes)
    discard(folder)
    try:
        write_own_files(folder, content, ALONE)
        complete(folder, content, 1)
    finally:
        discard(folder)
    return folder


def read_checkpoint(path: Path, parts: Sequence[str] | None = None) -> Checkpoint:
    """Read and verify a checkpoint folder.

    Args:
        path: a folder written by `write_checkpoint`, or by a run.
        parts: which tensors to load; None for all.

    Raises:
        CheckpointError: missing, damaged, truncated, of another format, or not a checkpoint at all (a pickle, say).
    """
    stored = StoredCheckpoint.at(path).verify(parts)
    tensors: dict[str, Tensors] = {}
    for part in stored.parts if parts is None else parts:
        with stored.opened(part) as found:
            tensors[part] = {name: found.whole(name) for name in found.names}
    return Checkpoint(
        tensors=tensors,
        state=stored.state,
        config=stored.config,
        classes=stored.classes,
        fingerprint=stored.fingerprint,
        preprocessing=stored.preprocessing,
        path=path,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]) -> Tensors:
    """The optimizer's state (momentum, ...) as `{"<parameter>/<slot>": tensor}`."""
    return {
        f"{name}/{slot}": value
        for name, parameter in parameters.items()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, torch.Tensor)
    }
