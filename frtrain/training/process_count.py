"""What of a run depends on the number of its processes; told when it changes."""

from __future__ import annotations

import logging

from frtrain.config import TrainConfig
from frtrain.training.batch_norm import choose_sync_batch_norm
from frtrain.training.hardware import choose_device

log = logging.getLogger(__name__)


def warn_of_another_count(config: TrainConfig, then: int, now: int) -> None:
    """Warn of what goes on differently in a run that has been in `then` processes and goes on in `now`."""
    if then == now:
        return
    for sentence in _depending(config, max(then, now)):
        log.warning("the run goes on in %d processes instead of %d: %s", now, then, sentence)


def _depending(config: TrainConfig, count: int) -> list[str]:
    sentences = []
    if config.classifier["name"] == "sampled":
        sentences.append(
            "with classifier=sampled each draws from its own classes, so that other classes are drawn from here on"
        )
    device = choose_device(config.trainer.device).value
    if not choose_sync_batch_norm(config.trainer.sync_batch_norm, device, count).value:
        sentences.append(
            "batch norm takes the statistics of a process's own images (trainer.sync_batch_norm), which are others now"
        )
    return sentences
