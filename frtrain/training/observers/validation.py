"""Verification on held-out identities while training."""

from __future__ import annotations

import logging

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from frtrain.data.source import Source
from frtrain.evaluation.metrics import Verification
from frtrain.evaluation.pairs import pairs_from_labels
from frtrain.evaluation.pictures import error_sheet, hardest_errors, roc_figure
from frtrain.evaluation.roc import FAR_TARGETS
from frtrain.evaluation.verification import verify_source
from frtrain.training.distributed import all_or_none, shared
from frtrain.training.observers.base import Observer, StepFacts
from frtrain.training.run import Run
from frtrain.training.state import crossed
from frtrain.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

LOWER_IS_BETTER = ("eer",)
AGREED = ("best_metric", "best_step", "validations_without_improvement", "improved_metric")
"""What process 0 finds out for all, fields of the state."""

HARDEST_PAIRS = 8
"""Of each kind, in TensorBoard's picture."""


class Validation(Observer):
    """Publishes `verify/...`, and keeps the best value of the configured metric in the state of every process.

    Process 0 verifies, the others wait. Pairs are drawn once, from the seed, so that every validation of a run asks the same question.
    """

    def __init__(
        self,
        held_out: Source,
        pairs: int,
        seed: int,
        every_epochs: float,
        metric: str,
        pictures_every_epochs: float | None,
    ):
        self.held_out = held_out
        self.pairs = pairs_from_labels(held_out.labels, pairs, seed)
        self.every_epochs = every_epochs
        self.metric = metric
        self.pictures_every_epochs = pictures_every_epochs

    def after_step(self, run: Run, facts: StepFacts, stopwatch: Stopwatch) -> None:
        """Verify when the interval has passed, and after the last step."""
        if crossed(run.state.step, self.every_epochs * run.steps_per_epoch) or run.finished:
            with stopwatch.paused("validation"):
                with run.evaluating(), all_or_none(run.processes):
                    if run.processes.rank == 0:
                        self._verify(run)
                found = shared(run.processes, [getattr(run.state, field) for field in AGREED])
                for field, value in zip(AGREED, found, strict=True):
                    setattr(run.state, field, value)
            if run.stopped_early and run.processes.rank == 0:
                log.info("%s", self._why_it_ends(run))

    def _verify(self, run: Run) -> None:
        result, scores = verify_source(run.embed, self.held_out, self.pairs, batch_size=256, flip=True)
        metrics = scalars_of(result)
        step = run.state.step
        run.logbook.scalars(step, run.epoch, {f"verify/{name}": value for name, value in metrics.items()})
        every = self.pictures_every_epochs
        if every is not None and (crossed(step, every * run.steps_per_epoch) or run.finished):
            run.logbook.figure(step, "verify/roc", roc_figure(scores, self.pairs.genuine, result))
            run.logbook.figure(step, "verify/hardest_pairs", self._hardest_pairs(scores, result))
        log.info("epoch %.1f  step %d  held-out identities: %s", run.epoch, step, result.headline())
        self._judge(run, metrics[self.metric])

    def _judge(self, run: Run, value: float) -> None:
        """Keep the best value, and count the validations that improved nothing."""
        state, sign = run.state, -1 if self.metric in LOWER_IS_BETTER else 1
        # Before there was an early stop, checkpoints had the best value alone.
        to_beat = state.best_metric if state.improved_metric is None else state.improved_metric
        if to_beat is None or sign * (value - to_beat) > run.config.validation.min_improvement:
            state.validations_without_improvement, state.improved_metric = 0, value
        else:
            state.validations_without_improvement += 1
        if state.best_metric is None or sign * value > sign * state.best_metric:
            state.best_metric, state.best_step = value, state.step

    def _why_it_ends(self, run: Run) -> str:
        state, validation = run.state, run.config.validation
        more = f" by more than {validation.min_improvement:g}" if validation.min_improvement else ""
        return (
            f"stopped early after step {state.step} of {run.total_steps}: {self.metric} has not improved{more} in the last "
            f"{state.validations_without_improvement} validations (validation.patience={validation.patience}); the best is "
            f"{state.best_metric:.4f} after step {state.best_step}"
        )

    def _hardest_pairs(self, scores: NDArray[np.float64], result: Verification) -> Figure:
        left, right, held_out = self.pairs.left, self.pairs.right, self.held_out

        def images(pair: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
            return held_out.image(int(left[pair])), held_out.image(int(right[pair]))

        def names(pair: int) -> tuple[str, str]:
            labels = held_out.labels
            return held_out.classes[labels[left[pair]]], held_out.classes[labels[right[pair]]]

        errors = hardest_errors(scores, self.pairs.genuine, result.threshold, HARDEST_PAIRS)
        return error_sheet(errors, images, names)


def scalars_of(result: Verification) -> dict[str, float]:
    """The numbers of a verification that make curves."""
    values = {
        "accuracy": result.accuracy.mean,
        "accuracy_standard_error": result.accuracy.standard_error,
        "auc": result.auc,
        "eer": result.eer,
        "threshold": result.threshold,
    }
    for point in result.operating_points:
        values[_tar_name(point.far_target)] = point.tar
    return values


def metric_names() -> list[str]:
    """Those of `scalars_of` that can choose the best checkpoint."""
    return ["accuracy", "auc", "eer", *map(_tar_name, FAR_TARGETS)]


def _tar_name(far: float) -> str:
    return f"tar_at_far_{far:g}"
