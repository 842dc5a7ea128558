"""A checkpoint's tensors into a run: each process reads its own rows, straight into the tensors that it has."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from frtrain.errors import CheckpointError
from frtrain.training.checkpoint_reading import StoredCheckpoint, StoredPart
from frtrain.training.shards import Piece, Pieces, Shards, piece_of

log = logging.getLogger(__name__)


def restore_part(checkpoint: StoredCheckpoint, part: str, pieces: Mapping[str, Piece], indispensable: str = "") -> None:
    """Copy a part of a checkpoint into the tensors of a run.

    Args:
        checkpoint: verified.
        part: its name.
        pieces: what this process has of the run's tensors, by name.
        indispensable: beginning of the names that must be there and fit; of others it is told in a warning where they do not, and
            they keep their values. By default all must.

    Raises:
        CheckpointError: they do not fit; names the first difference.
    """
    with checkpoint.opened(part) as stored:
        for name in sorted(pieces.keys() | set(stored.names)):
            here = list(pieces[name].shape) if name in pieces else "absent"
            there = list(stored.shape(name)) if name in stored.names else "absent"
            if here == there:
                stored.read_into(pieces[name].tensor, name, pieces[name].rows)
            elif name.startswith(indispensable):
                raise CheckpointError(
                    f"{checkpoint.path}: the {part} does not fit: {name} is {there} in the checkpoint and {here} in this run"
                )
            else:
                log.warning("%s.%s is %s in the checkpoint and %s here: left as it is", part, name, there, here)


def restore_optimizer(
    checkpoint: StoredCheckpoint,
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    shards: Shards,
    anyway: bool = False,
) -> None:
    """Give the optimizer what it had kept (momentum, ...), each process for its rows of the parameters.

    Args:
        checkpoint: verified.
        optimizer: of the run, fresh.
        parameters: everything that is optimized, by full name.
        shards: see `frtrain.training.shards.shards_of`.
        anyway: whether state that fits no parameter is left out, with a warning.

    Raises:
        CheckpointError: the state belongs to parameters that this run does not have, or of another shape.
    """
    with checkpoint.opened("optimizer") as stored:
        for key in stored.names:
            name, _, slot = key.rpartition("/")
            parameter = parameters.get(name)
            value = None if parameter is None else _slot(stored, key, name, parameter, shards)
            if parameter is not None and value is not None:
                optimizer.state[parameter][slot] = value
                continue
            text = f"the optimizer state {key} {list(stored.shape(key))} fits no parameter of this run"
            if not anyway:
                raise CheckpointError(f"{checkpoint.path}: {text}")
            log.warning("%s: it is left out", text)


def restore_further(checkpoint: StoredCheckpoint, pieces: Pieces, parts: Mapping[str, object]) -> None:
    """Copy the further parts of a run, those that the checkpoint has; the others are told to begin with what there is now.

    Args:
        checkpoint: verified.
        pieces: by part and name.
        parts: the objects themselves; one may have a method `begin`.

    Raises:
        CheckpointError: a part does not fit.
    """
    for name, part in parts.items():
        if name in checkpoint.parts:
            restore_part(checkpoint, name, pieces[name])
            continue
        log.warning("the checkpoint has no %s: it begins now", name)
        begin = getattr(part, "begin", None)
        if begin is not None:
            begin()


def _slot(stored: StoredPart, key: str, name: str, parameter: nn.Parameter, shards: Shards) -> Tensor | None:
    """What an optimizer keeps for a parameter: of its shape, for each number of it; or a number; None for anything else."""
    shape = stored.shape(key)
    if not shape and key.endswith("/step"):  # where it belongs is the optimizer's affair
        return stored.whole(key)
    piece = piece_of(name, parameter, shards.get(name))
    if shape != piece.shape:
        return None if shape else stored.whole(key).to(piece.tensor.device)
    # The layout of the parameter (channels_last, say), so that the next update computes as the last one did.
    value = torch.empty_like(parameter, dtype=stored.dtype(key), requires_grad=False)
    stored.read_into(piece_of(key, value, shards.get(name)).tensor, key, piece.rows)
    return value
