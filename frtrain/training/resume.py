"""Going on with a run: which checkpoint, and whether it belongs to this configuration and these data."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frtrain.config import TrainConfig
from frtrain.config_files import RENAMED
from frtrain.data.source import Source
from frtrain.errors import CheckpointError
from frtrain.processes import Processes
from frtrain.training.checkpoint_index import INDEX, DamagedCheckpointError
from frtrain.training.checkpoint_reading import StoredCheckpoint
from frtrain.training.process_count import warn_of_another_count
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
    "resume_anyway",
    "init_from",
    "init_centres",
    "data",
    "subset",
    "log",
    "checkpoint",
    "suite",
    "optimizer.batch_rule",  # every run tells what it makes of it
    "trainer.workers",
    "trainer.hang_after_minutes",
    "trainer.parallel",  # computes the same
    "trainer.static_graph",
    "trainer.profile",
    "trainer.device",
)
"""Keys that may change without a word; the data are compared by their fingerprint."""


ADDED_LATER = {
    "sampler.name": "shuffled",
    "trainer.on_corrupt": "error",
    "optimizer.fused": "auto",
    "optimizer.classifier_lr_factor": 1.0,
    "scheduler.warmup_unit": "epochs",
    "trainer.gradient_compression": "none",
    "validation.patience": None,
    "validation.min_improvement": 0,
    "validation.weights": "model",
    "trainer.compile": False,
    "trainer.compile_classifier": False,
    "trainer.activation_checkpointing": False,
    "trainer.ema_decay": None,
}
"""What runs did before there was such a key: checkpoints without it can be resumed."""


def checkpoint_to_resume(config: TrainConfig, folder: RunFolder) -> StoredCheckpoint | None:
    """The checkpoint that `config.resume` asks for, verified and compared; None for a new run.

    With `auto` or a run folder it is the newest one that is whole: damaged ones that are newer are moved to `checkpoints/damaged/`.
    Checkpoints of the folder that are later than it are moved to `checkpoints/superseded/`.

    Raises:
        CheckpointError: it is missing, damaged or of another configuration; or `resume=never` meets a folder in use.
    """
    if config.resume == "never":
        if folder.steps_begun():
            raise CheckpointError(
                f"{folder.path}: holds checkpoints of an earlier run and resume=never; choose another run_dir or resume=auto"
            )
        return None
    given = Path(config.resume).expanduser()
    exact = config.resume != "auto" and (given.is_file() or (given / INDEX).is_file())
    checkpoint = StoredCheckpoint.at(checkpoint_of(given)).verify() if exact else _newest_whole(folder)
    if checkpoint is None:
        return None
    _compare(checkpoint, config)
    step = int(checkpoint.state["step"])
    folder.supersede_after(step)
    folder.point_again(step, checkpoint.state["best_step"])
    return checkpoint


def _newest_whole(folder: RunFolder) -> StoredCheckpoint | None:
    damaged: dict[int, str] = {}
    for step in reversed(folder.steps_begun()):
        try:
            checkpoint = StoredCheckpoint.at(folder.checkpoint(step)).verify()
        except DamagedCheckpointError as error:
            damaged[step] = str(error).partition("; use an earlier")[0]
            continue
        for newer, reason in damaged.items():
            target = folder.set_damaged_aside(newer)
            log.warning("%s; moved to %s, going on from %s instead", reason, target, checkpoint.path.name)
        return checkpoint
    if damaged:  # left where they are, so that no new run begins in their place
        raise CheckpointError(
            f"{folder.checkpoints}: none of the checkpoints can be used ({'; '.join(damaged.values())}). Restore one of them from "
            "a copy, or start a new run in another run_dir"
        )
    return None


def check_same_data(checkpoint: StoredCheckpoint, source: Source, anyway: bool = False) -> None:
    """Check that a checkpoint was trained on this data.

    Args:
        checkpoint: to go on from.
        source: the data now.
        anyway: whether other images of the same identities are accepted, with a warning.

    Raises:
        CheckpointError: says what differs.
    """
    if checkpoint.fingerprint == source.fingerprint:
        return
    same_rows = list(checkpoint.classes) == list(source.classes)
    then, now = set(checkpoint.classes), set(source.classes)
    differences = [
        f"{len(then)} identities then, {len(now)} now",
        *(f"no longer there: {', '.join(sorted(gone)[:3])}" for gone in [then - now] if gone),
        *(f"new: {', '.join(sorted(new)[:3])}" for new in [now - then] if new),
        f"fingerprint then {checkpoint.fingerprint}, now {source.fingerprint}",
    ]
    if anyway and same_rows:
        log.warning("going on with other data (resume_anyway=true): %s", "; ".join(differences))
        return
    remedy = (
        "go on with resume_anyway=true"
        if same_rows
        else "take over its weights with init_from=PATH init_centres=true: the class centres are then matched by identity"
    )
    raise CheckpointError(
        f"{checkpoint.path}: was trained on other data ({'; '.join(differences)}). Point data at the data of the run, or "
        f"start a new run; or {remedy}"
    )


def _compare(checkpoint: StoredCheckpoint, config: TrainConfig) -> None:
    now = dict(_leaves(config.model_dump()))
    then = {key: value for key, value in ADDED_LATER.items() if key in now}
    then |= {RENAMED.get(key, key): value for key, value in _leaves(checkpoint.config)}
    changed = {
        key: f"{key}: {then.get(key, 'absent')} then, {now.get(key, 'absent')} now"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and not _below(key, FREE)
    }
    same_results = {str(leaves.get("classifier.name")) for leaves in (then, now)} <= ALIKE
    free = ("classifier",) if same_results else ()
    fixed = [text for key, text in changed.items() if _below(key, FIXED) and not _below(key, free)]
    if fixed and not config.resume_anyway:
        raise CheckpointError(
            f"{checkpoint.path}: belongs to a run of another configuration ({'; '.join(fixed)}). Take these back to go on, "
            "or start a new run in another run_dir. resume_anyway=true goes on as far as the weights fit"
        )
    for text in changed.values():
        log.warning("the configuration changed since the checkpoint: %s", text)
    warn_of_another_count(config, checkpoint.index.processes, Processes.current().count)


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _below(key: str, parents: tuple[str, ...]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)
