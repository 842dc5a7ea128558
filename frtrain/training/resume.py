"""Going on with a run: which checkpoint, and whether it belongs to this configuration and these data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from frtrain.config import TrainConfig
from frtrain.data.source import Source
from frtrain.errors import CheckpointError
from frtrain.training.checkpoint import Checkpoint, read_checkpoint
from frtrain.training.run_folder import RunFolder, checkpoint_of

log = logging.getLogger(__name__)

FIXED = (
    "seed",
    "backbone",
    "loss",
    "modifiers",
    "auxiliary",
    "classifier.name",
    "classifier.rate",
    "sampler",
    "augment",
    "device_augment",
    "optimizer.name",
    "trainer.batch_size",
    "trainer.accumulate",
    "validation.fraction",
)
"""Keys that cannot change within a run: another value makes another run."""

ALIKE = {"auto", "dense", "chunked", "sharded"}
"""Classifiers that compute the same; a run may go on with another of them."""

FREE = (
    "name",
    "runs",
    "run_dir",
    "resume",
    "data",
    "subset",
    "log",
    "checkpoint",
    "suite",
    "trainer.workers",
    "trainer.device",
)
"""Keys that may change without a word; the data are compared by their fingerprint."""


ADDED_LATER = {"sampler.name": "shuffled", "trainer.on_corrupt": "error"}
"""What runs did before there was such a key: checkpoints without it can be resumed."""


def checkpoint_to_resume(config: TrainConfig, folder: RunFolder) -> Checkpoint | None:
    """The checkpoint that `config.resume` asks for, verified and compared; None for a new run.

    Checkpoints of the folder that are later than it are moved to `checkpoints/superseded/`.

    Raises:
        CheckpointError: it is missing, damaged or of another configuration; or `resume=never` meets a folder in use.
    """
    steps = folder.steps()
    if config.resume == "never" and steps:
        raise CheckpointError(
            f"{folder.path}: holds checkpoints of an earlier run and resume=never; choose another run_dir or resume=auto"
        )
    if config.resume not in ("auto", "never"):
        checkpoint = read_checkpoint(checkpoint_of(config.resume))
    elif steps:
        checkpoint = read_checkpoint(folder.checkpoint(steps[-1]))
    else:
        return None
    _compare(checkpoint, config)
    folder.supersede_after(int(checkpoint.state["step"]))
    return checkpoint


def check_same_data(checkpoint: Checkpoint, source: Source) -> None:
    """Check that a checkpoint was trained on this data.

    Raises:
        CheckpointError: says what differs.
    """
    if checkpoint.fingerprint == source.fingerprint:
        return
    then, now = set(checkpoint.classes), set(source.classes)
    differences = [
        f"{len(then)} identities then, {len(now)} now",
        *(f"no longer there: {', '.join(sorted(gone)[:3])}" for gone in [then - now] if gone),
        *(f"new: {', '.join(sorted(new)[:3])}" for new in [now - then] if new),
        f"fingerprint then {checkpoint.fingerprint}, now {source.fingerprint}",
    ]
    raise CheckpointError(
        f"{checkpoint.path}: was trained on other data ({'; '.join(differences)}). Point data at the data of the run, or "
        "start a new run"
    )


def _compare(checkpoint: Checkpoint, config: TrainConfig) -> None:
    then, now = ADDED_LATER | dict(_leaves(checkpoint.config)), dict(_leaves(config.model_dump()))
    changed = {
        key: f"{key}: {then.get(key, 'absent')} then, {now.get(key, 'absent')} now"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and not _below(key, FREE)
    }
    same_results = {str(leaves.get("classifier.name")) for leaves in (then, now)} <= ALIKE
    free = ("classifier",) if same_results else ()
    fixed = [text for key, text in changed.items() if _below(key, FIXED) and not _below(key, free)]
    if fixed:
        raise CheckpointError(
            f"{checkpoint.path}: belongs to a run of another configuration ({'; '.join(fixed)}). Take these back to go on, "
            "or start a new run in another run_dir"
        )
    for text in changed.values():
        log.warning("the configuration changed since the checkpoint: %s", text)


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _below(key: str, parents: tuple[str, ...]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)
