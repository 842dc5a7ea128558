"""The training loop."""

from __future__ import annotations

import logging

from frtrain.communication import COMMUNICATION
from frtrain.data.loader import TrainingLoader
from frtrain.signals import StopRequest
from frtrain.training.distributed import stop_together
from frtrain.training.heartbeat import watched_for_hangs
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)


def train(run: Run, loader: TrainingLoader, observers: list[Observer], stop: StopRequest) -> None:
    """Train from `run.state` to the last step, to an early stop, or to a stop request of any process.

    Raises:
        TrainingError: too many steps in a row were not finite.
        DataError: an image could not be decoded, and nothing may take its place.
        EndedElsewhereError: another process has failed.
    """
    stopwatch = Stopwatch(run.device)
    COMMUNICATION.watch(run.network)
    try:
        with watched_for_hangs(run, stopwatch, _steps):
            _steps(run, loader, observers, stop, stopwatch)
        for observer in observers:
            observer.after_run(run)
    except Exception:
        for observer in observers:
            try:
                observer.after_failure(run)
            except Exception as further:  # what ended the run is what has to be told
                kind, who = type(further).__name__, type(observer).__name__
                log.warning("%s, while the run ends by an error: %s: %s", who, kind, further)
        raise


def _steps(
    run: Run, loader: TrainingLoader, observers: list[Observer], stop: StopRequest, stopwatch: Stopwatch
) -> None:
    state, optimization = run.state, run.optimization
    batches_left = (run.total_steps - state.step) * optimization.accumulate
    for batch in stopwatch.waiting_for(loader.batches(state.position, batches_left)):
        batch = loader.augmented(batch, run.device)
        run.seed_dropout()
        with run.autocast(), run.accumulating():
            embedding = run.network(run.network_input(batch.images))
        loss, facts = run.classifier(embedding.to(run.dtype), batch.labels.to(run.device, non_blocking=True))
        optimization.backward(loss)
        COMMUNICATION.backward_is_over()
        for observer in observers:
            observer.after_batch(run, batch, loss.detach(), facts)
        state.position += loader.batch_size
        if not optimization.due:
            continue
        applied = optimization.step(state.step)
        run.classifier.advance(applied)
        state.advance(not optimization.newly_skipped)
        for observer in observers:
            observer.after_step(run, StepFacts(batch, loss.detach(), facts, applied), stopwatch)
        if stop_together(stop, run.processes) or run.stopped_early:
            break
