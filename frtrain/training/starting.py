"""Weights of another run for a new one: its backbone, and the class centres of the identities that both have."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from frtrain.config import TrainConfig
from frtrain.errors import CheckpointError, ConfigError
from frtrain.training.checkpoint_reading import StoredCheckpoint, StoredPart
from frtrain.training.run import Run
from frtrain.training.run_folder import RunFolder, checkpoint_of
from frtrain.training.shards import Piece

log = logging.getLogger(__name__)

SHOWN = 8
"""Tensors that are named in the report; of more, their number is told."""


def check_start(config: TrainConfig) -> None:
    """What can be known to be wrong with `init_from` before anything is built.

    Raises:
        ConfigError: `init_centres` without `init_from`.
        CheckpointError: there is no checkpoint at `init_from`, where it will be read.
    """
    if config.init_from is None:
        if config.init_centres:
            raise ConfigError("init_centres=true: from where? Set init_from to a run or checkpoint")
        return
    if config.resume in ("auto", "never") and not _will_resume(config):
        checkpoint_of(config.init_from)


def _will_resume(config: TrainConfig) -> bool:
    return config.run_dir is not None and bool(RunFolder(Path(config.run_dir).expanduser()).steps_begun())


def start_from(run: Run) -> None:
    """Copy the weights that `init_from` and `init_centres` ask for into a new run, and tell in the log what fitted.

    Of the backbone, tensors of the same name and shape; of the class centres, those of identities of the same name. All else
    keeps its first values. Each process reads its own rows.

    Raises:
        CheckpointError: it is missing or damaged, nothing of the backbone fits, or centres have another size or number.
    """
    config = run.config
    if config.init_from is None:
        return
    parts = ("backbone", "classifier") if config.init_centres else ("backbone",)
    checkpoint = StoredCheckpoint.at(checkpoint_of(config.init_from)).verify(parts)
    pieces = run.pieces()
    _start_backbone(checkpoint, pieces["backbone"])
    if checkpoint.preprocessing != run.preprocessing.as_dict():
        log.warning(
            "init_from: its network was trained with another preprocessing: %s then, %s now",
            checkpoint.preprocessing,
            run.preprocessing.as_dict(),
        )
    if config.init_centres:
        _start_centres(checkpoint, pieces["classifier"], run)
    for part in run.further.values():
        begin = getattr(part, "begin", None)
        if begin is not None:
            begin()
    run.optimization.remember_buffers()


def _start_backbone(checkpoint: StoredCheckpoint, pieces: Mapping[str, Piece]) -> None:
    loaded, left, weights = 0, [], False
    with checkpoint.opened("backbone") as stored:
        there = {name: list(stored.shape(name)) for name in stored.names}
        for name, piece in pieces.items():
            if there.get(name) == list(piece.shape):
                stored.read_into(piece.tensor, name, piece.rows)
                loaded, weights = loaded + 1, weights or bool(piece.shape)  # batch norm's counts fit any network
            else:
                left.append(f"{name} {list(piece.shape)} ({there.get(name, 'absent')} there)")
    if not weights:
        raise CheckpointError(
            f"init_from: nothing of {checkpoint.path} fits this backbone (there: {checkpoint.config['backbone']}); choose the "
            "same kind of backbone"
        )
    log.info("init_from %s: %d of %d tensors of the backbone are loaded", checkpoint.path, loaded, len(pieces))
    if left:
        log.warning("init_from: left at their first values: %s", _some(left))
    unused = [f"{name} {shape}" for name, shape in there.items() if name not in pieces]
    if unused:
        log.info("init_from: not used: %s", _some(unused))


def _start_centres(checkpoint: StoredCheckpoint, pieces: Mapping[str, Piece], run: Run) -> None:
    per_class, classes = run.classifier.head.centres_per_class, run.source.classes
    place = {name: number for number, name in enumerate(checkpoint.classes)}
    matches = [(number, place[name]) for number, name in enumerate(classes) if name in place]
    with checkpoint.opened("classifier") as stored:
        shape, own = stored.shape("centres"), pieces["centres"].shape
        if shape[0] != len(place) * per_class or shape[1:] != own[1:]:
            raise CheckpointError(
                f"init_centres: the class centres of {checkpoint.path} do not fit: {_described(shape, len(place))} there, "
                f"{_described(own, len(classes))} in this run. Take the same embedding size and as many centres a class, or "
                "init_centres=false"
            )
        names = [name for name in ("centres", "bias") if name in pieces and name in stored.names]
        for name in names:
            _copy_rows(stored, name, pieces[name], _rows(matches, per_class))
    log.info(
        "init_centres: %s of %s classes have the centre that they had there (%s); the others begin anew",
        f"{len(matches):,}",
        f"{len(classes):,}",
        " and ".join(names),
    )
    if not matches:
        log.warning("init_centres: no identity of this run is in %s: are they named alike?", checkpoint.path)


def _described(shape: Sequence[int], classes: int) -> str:
    return f"{shape[0] // max(classes, 1)} a class, of {shape[1]} numbers"


def _rows(matches: Sequence[tuple[int, int]], per_class: int) -> tuple[Tensor, Tensor]:
    """Rows here and there of the matching classes, `int64 [k]` each, the latter rising."""
    pairs = torch.tensor(sorted(matches, key=lambda match: match[1]), dtype=torch.int64).reshape(-1, 2)
    within = torch.arange(per_class)
    here, there = ((numbers[:, None] * per_class + within).flatten() for numbers in pairs.unbind(dim=1))
    return here, there


@torch.no_grad()
def _copy_rows(stored: StoredPart, name: str, piece: Piece, rows: tuple[Tensor, Tensor]) -> None:
    """Copy single rows of a stored tensor to other rows of the run's, as far as this process has them."""
    here, there = rows
    first = 0 if piece.rows is None else piece.rows.first
    mine = (here >= first) & (here < first + len(piece.tensor))
    here, there = here[mine] - first, there[mine]
    if not len(there):
        return
    for begin, block in stored.blocks(name, int(there[0]), int(there[-1]) + 1):
        low, high = torch.searchsorted(there, torch.tensor([begin, begin + len(block)])).tolist()
        values = block[there[low:high] - begin].to(piece.tensor)
        piece.tensor[here[low:high].to(piece.tensor.device)] = values


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
