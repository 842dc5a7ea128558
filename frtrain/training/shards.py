"""Tensors whose rows are divided among the processes, and the whole tensors that checkpoints hold.

What a checkpoint holds does not depend on the number of processes: the rows are gathered when it is written, and each process
takes its own when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from frtrain.classifier.base import Classifier
from frtrain.classifier.chunked import BlockwiseClassifier
from frtrain.classifier.selection import Shard
from frtrain.processes import Processes
from frtrain.training.checkpoint import Tensors

Shards = Mapping[str, Shard]
"""The rows that this process holds of each divided parameter, by its full name."""


def shards_of(classifier: Classifier) -> Shards:
    """The divided parameters of a classifier; empty where each process holds everything."""
    if not isinstance(classifier, BlockwiseClassifier) or len(classifier.shard) == classifier.shard.total:
        return {}
    classes, per_class = classifier.shard, classifier.head.centres_per_class
    rows = Shard(classes.first * per_class, classes.last * per_class, classes.total * per_class)
    divided = ("centres",) if classifier.bias is None else ("centres", "bias")
    return {f"classifier.{name}": rows for name in divided}


def gathered(parts: Mapping[str, Tensors], shards: Shards, processes: Processes) -> dict[str, Tensors] | None:
    """The tensors of a checkpoint with all their rows, on process 0; None on the others, which must call it, too.

    Args:
        parts: by part of the checkpoint, as this process has them.
        shards: see `shards_of`.
        processes: who hold the shards.
    """
    whole: dict[str, Tensors] = {}
    for part, tensors in parts.items():
        whole[part] = {}
        for name, tensor in tensors.items():
            shard = _shard_of(part, name, tensor, shards)
            rows = tensor if shard is None else _all_rows(tensor, shard, processes)
            if rows is not None:
                whole[part][name] = rows
    return whole if processes.rank == 0 else None


def own_part(parts: Mapping[str, Tensors], shards: Shards) -> dict[str, Tensors]:
    """The tensors of a checkpoint with this process's rows alone.

    One that has another number of rows than the run is left as it is, for the difference to be told.
    """

    def own(part: str, name: str, tensor: Tensor) -> Tensor:
        shard = _shard_of(part, name, tensor, shards)
        return tensor if shard is None or len(tensor) != shard.total else tensor[shard.first : shard.last]

    return {
        part: {name: own(part, name, tensor) for name, tensor in tensors.items()} for part, tensors in parts.items()
    }


def _shard_of(part: str, name: str, tensor: Tensor, shards: Shards) -> Shard | None:
    """The rows of a tensor of a checkpoint: a parameter, or what the optimizer keeps for it (`<parameter>/<slot>`)."""
    parameter = name.rpartition("/")[0] if part == "optimizer" else f"{part}.{name}"
    return shards.get(parameter) if tensor.ndim else None  # numbers, such as Adam's count of steps, are not divided


def _all_rows(tensor: Tensor, shard: Shard, processes: Processes) -> Tensor | None:
    """All rows of a divided tensor in the main memory of process 0, one process's after the other's; None elsewhere."""
    own = tensor.detach().cpu().contiguous()
    lengths = processes.stack(torch.tensor(len(own))).tolist()
    if processes.rank > 0:
        if len(own):
            dist.send(own, dst=0)
        return None
    rows = own.new_empty((shard.total, *own.shape[1:]))
    for rank, part in enumerate(rows.split(lengths)):
        if rank == 0:
            part.copy_(own)
        elif len(part):
            dist.recv(part, src=rank)
    return rows
