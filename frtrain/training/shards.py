"""What a process has of the tensors of a run: all of a tensor, or some of its rows.

Class centres may be divided among the processes by classes, and a backbone under FSDP2 by the rows of each parameter. A
checkpoint names every tensor by its part (`backbone`, `classifier`, `optimizer`, ...) and its name within it, and knows of each
piece which rows it is, so that any number of processes can read what another number has written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from frtrain.classifier.base import Classifier
from frtrain.classifier.chunked import BlockwiseClassifier
from frtrain.classifier.selection import Shard
from frtrain.errors import CheckpointError
from frtrain.processes import Processes

Shards = Mapping[str, Shard]
"""The rows that this process holds of each divided parameter, by its full name."""

Writer = Literal["this", "other", "first", "any"]
"""Who writes a piece: this process, which alone has it; another, which has the same rows; process 0, whose values count; or any,
since all have the same bits."""


@dataclass(frozen=True)
class Piece:
    """What this process has of one tensor.

    Attributes:
        tensor: the rows, detached, on any device and in any layout; it shares its memory with the run.
        rows: which ones they are, of how many; None where this process has the whole tensor.
        writer: who puts it into a checkpoint.
    """

    tensor: Tensor
    rows: Shard | None
    writer: Writer

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor."""
        own = tuple(self.tensor.shape)
        return own if self.rows is None else (self.rows.total, *own[1:])

    @property
    def bytes(self) -> int:
        """Of the rows that this process has."""
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def whole_bytes(self) -> int:
        """Of the whole tensor."""
        return torch.Size(self.shape).numel() * self.tensor.element_size()


Pieces = Mapping[str, Mapping[str, Piece]]
"""By part, and by name within it."""


class Stateful(Protocol):
    """A further part of a checkpoint, besides backbone, classifier and optimizer: any `nn.Module` that keeps tensors."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Its tensors, sharing their memory: a restored run copies into them."""
        ...


def shards_of(classifier: Classifier) -> Shards:
    """The divided parameters of a classifier; empty where each process holds everything."""
    if not isinstance(classifier, BlockwiseClassifier) or len(classifier.shard) == classifier.shard.total:
        return {}
    classes, per_class = classifier.shard, classifier.head.centres_per_class
    rows = Shard(classes.first * per_class, classes.last * per_class, classes.total * per_class)
    divided = ("centres",) if classifier.bias is None else ("centres", "bias")
    return {f"classifier.{name}": rows for name in divided}


def collected(
    parts: Mapping[str, Mapping[str, Tensor]], shards: Shards | None = None, alike: Collection[str] = ()
) -> dict[str, dict[str, Piece]]:
    """Describe what this process has of every tensor. Nothing is copied and nobody is talked to.

    Args:
        parts: tensors by part and name; those of the part `optimizer` are called `<parameter>/<slot>`. DTensors say themselves
            which rows they are.
        shards: see `shards_of`; None: each process has everything.
        alike: full names (`<part>.<name>`) of the parameters that are the same everywhere where they are not divided, and so
            is what the optimizer keeps for them. Of all else (statistics of batch norm, say) process 0's values count.

    Raises:
        CheckpointError: a DTensor is divided in another way than by rows.
    """

    def piece(part: str, name: str, tensor: Tensor) -> Piece:
        parameter = name.rpartition("/")[0] if part == "optimizer" else f"{part}.{name}"
        return piece_of(f"{part}.{name}", tensor, (shards or {}).get(parameter), parameter in alike)

    return {
        part: {name: piece(part, name, tensor) for name, tensor in tensors.items()} for part, tensors in parts.items()
    }


def piece_of(name: str, tensor: Tensor, rows: Shard | None = None, alike: bool = False) -> Piece:
    """Describe one tensor.

    Args:
        name: for messages.
        tensor: a DTensor, or what this process has of it.
        rows: which ones, where they are not all; numbers, such as Adam's count of steps, are never divided.
        alike: whether the same bits are everywhere.

    Raises:
        CheckpointError: a DTensor is divided in another way than by rows.
    """
    tensor = tensor.detach()
    if type(tensor) is not Tensor and hasattr(tensor, "device_mesh"):
        return _piece_of_dtensor(name, tensor)
    if rows is not None and tensor.ndim:
        return Piece(tensor, rows, "this")
    return Piece(tensor, None, "any" if alike else "first")


def _piece_of_dtensor(name: str, tensor: Any) -> Piece:
    """A DTensor of FSDP2: neighbouring rows, `ceil(total / n)` for each of n processes until none are left."""
    mesh, local = tensor.device_mesh, tensor.to_local().detach()
    divided = [place for place, placement in enumerate(tensor.placements) if placement.is_shard(0)]
    others = [place for place, placement in enumerate(tensor.placements) if not placement.is_shard(0)]
    if len(divided) > 1 or any(not tensor.placements[place].is_replicate() for place in others):
        raise CheckpointError(
            f"{name}: is divided as {tensor.placements}; checkpoints hold tensors divided by rows over one dimension of a mesh"
        )
    first_copy = all(mesh.get_local_rank(place) == 0 for place in others)
    writer: Writer = "this" if first_copy else "other"
    if not divided:
        return Piece(local, None, writer)
    total = tensor.shape[0]
    share = -(-total // mesh.size(divided[0]))
    first = min(mesh.get_local_rank(divided[0]) * share, total)
    rows = Shard(first, min(first + share, total), total)
    if len(rows) != len(local):
        raise CheckpointError(f"{name}: this process has {len(local)} rows of it where {len(rows)} were expected")
    return Piece(local, rows, writer)


def own_duty(pieces: Pieces, processes: Processes) -> dict[str, dict[str, Piece]]:
    """The pieces that this process writes. All processes together write each row once.

    What all have alike is dealt out, the largest first, to who has least to write so far; every process finds the same deal.
    """
    loads = [0] * processes.count
    loads[0] = sum(piece.bytes for named in pieces.values() for piece in named.values() if piece.writer == "first")
    common = [
        (-piece.bytes, part, name)
        for part, named in pieces.items()
        for name, piece in named.items()
        if piece.writer == "any"
    ]
    writers: dict[tuple[str, str], int] = {}
    for negative_bytes, part, name in sorted(common):
        rank = loads.index(min(loads))
        loads[rank] -= negative_bytes
        writers[part, name] = rank

    def is_mine(part: str, name: str, piece: Piece) -> bool:
        if piece.writer == "any":
            return writers[part, name] == processes.rank
        if piece.writer == "first":
            return processes.rank == 0
        return piece.writer == "this" and (piece.rows is None or len(piece.rows) > 0)

    return {
        part: {name: piece for name, piece in named.items() if is_mine(part, name, piece)}
        for part, named in pieces.items()
    }
