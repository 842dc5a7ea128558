"""The training loop."""

from __future__ import annotations

from frtrain.data.loader import TrainingLoader
from frtrain.signals import StopRequest
from frtrain.training.distributed import stop_together
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.stopwatch import Stopwatch


def train(run: Run, loader: TrainingLoader, observers: list[Observer], stop: StopRequest) -> None:
    """Train from `run.state` to the last step, or to a stop request of any process.

    Raises:
        TrainingError: too many steps in a row were not finite.
        DataError: an image could not be decoded, and nothing may take its place.
        EndedElsewhereError: another process has failed.
    """
    state, optimization = run.state, run.optimization
    stopwatch = Stopwatch()
    batches_left = (run.total_steps - state.step) * optimization.accumulate
    for batch in stopwatch.waiting_for(loader.batches(state.position, batches_left)):
        batch = loader.augmented(batch, run.device)
        run.seed_dropout()
        with run.autocast(), run.accumulating():
            embedding = run.network(run.network_input(batch.images))
        loss, facts = run.classifier(embedding.float(), batch.labels.to(run.device, non_blocking=True))
        optimization.backward(loss)
        state.position += loader.batch_size
        if not optimization.due:
            continue
        applied = optimization.step(state.step)
        if applied:
            run.classifier.advance()
        state.advance(applied)
        for observer in observers:
            observer.after_step(run, StepFacts(batch, loss.detach(), facts, applied), stopwatch)
        if stop_together(stop, run.processes):
            break
    for observer in observers:
        observer.after_run(run)
