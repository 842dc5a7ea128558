"""Pair verification in numbers: accuracy over folds with its spread, AUC, EER, TAR at FAR, and their thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frtrain.errors import DataError
from frtrain.evaluation.bootstrap import Bootstrap, bootstrap
from frtrain.evaluation.roc import (
    FAR_TARGETS,
    OperatingPoint,
    auc,
    best_threshold,
    check_scores,
    equal_error_rate,
    operating_points,
    roc,
)


@dataclass(frozen=True)
class FoldAccuracy:
    """Cross-validated accuracy (the protocol of LFW, Huang et al. 2007).

    Attributes:
        mean: mean over the folds.
        standard_error: sample standard deviation over the folds, divided by sqrt(folds).
        per_fold: accuracy of each fold at the threshold that is best on all other folds.
        thresholds: those thresholds.
    """

    mean: float
    standard_error: float
    per_fold: tuple[float, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class Verification:
    """The result of one list of pairs. All rates are shares in 0..1; a pair is accepted when `score >= threshold`.

    Attributes:
        genuine, impostor: number of pairs of each kind.
        accuracy: over the folds, each at the threshold of the others: the number to publish.
        best_accuracy, threshold: the best on all pairs at once, and where. The threshold is the one to start from;
            the accuracy has seen the answers and is slightly too good.
        auc: area under the ROC.
        eer, eer_threshold: equal error rate.
        operating_points: TAR at each FAR.
        intervals: bootstrap confidence intervals, where they were asked for.
    """

    genuine: int
    impostor: int
    accuracy: FoldAccuracy
    best_accuracy: float
    threshold: float
    auc: float
    eer: float
    eer_threshold: float
    operating_points: tuple[OperatingPoint, ...]
    intervals: Bootstrap | None = None

    def headline(self) -> str:
        """One line for a log."""
        rates = "  ".join(
            f"TAR@FAR={point.far_target:g} {point.tar * 100:.2f} %" for point in self.operating_points if point.resolved
        )
        return (
            f"accuracy {self.accuracy.mean * 100:.2f} ± {self.accuracy.standard_error * 100:.2f} %  "
            f"AUC {self.auc:.4f}  EER {self.eer * 100:.2f} %  {rates}"
        ).rstrip()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure(
    scores: ArrayLike,
    genuine: ArrayLike,
    fold: ArrayLike,
    far_targets: Sequence[float] = FAR_TARGETS,
    resamples: int = 0,
    seed: int = 0,
) -> Verification:
    """Everything about one list of scored pairs.

    Args:
        scores: `[P]`, higher means more alike.
        genuine: `bool [P]`.
        fold: `int [P]`, which fold each pair belongs to; at least two folds.
        far_targets: false accept rates to report the true accept rate at.
        resamples: bootstrap resamples for the confidence intervals; 0 leaves them out.
        seed: of the bootstrap.

    Raises:
        DataError: scores are not finite, a kind of pair is absent, or there are fewer than two folds.
    """
    score, same = check_scores(scores, genuine)
    folds = np.asarray(fold)
    accuracy, correct = fold_accuracy(score, same, folds)
    curve = roc(score, same)
    threshold, best_accuracy = best_threshold(curve)
    eer, eer_threshold = equal_error_rate(curve)
    return Verification(
        genuine=curve.genuine,
        impostor=curve.impostor,
        accuracy=accuracy,
        best_accuracy=best_accuracy,
        threshold=threshold,
        auc=auc(curve),
        eer=eer,
        eer_threshold=eer_threshold,
        operating_points=operating_points(curve, far_targets),
        intervals=bootstrap(score, same, folds, correct, far_targets, resamples, seed) if resamples else None,
    )


def fold_accuracy(
    score: NDArray[np.float64], same: NDArray[np.bool_], fold: NDArray[np.integer]
) -> tuple[FoldAccuracy, NDArray[np.bool_]]:
    """Cross-validated accuracy, and for each pair whether it was decided rightly, `bool [P]`.

    Raises:
        DataError: fewer than two folds, or the pairs outside a fold are all of one kind.
    """
    names = np.unique(fold)
    if len(names) < 2 or fold.shape != score.shape:
        raise DataError(f"{len(score):,} pairs in {len(names)} fold(s): cross-validation needs at least two folds")
    correct = np.zeros(len(score), dtype=np.bool_)
    per_fold, thresholds = [], []
    for name in names:
        held_out = fold == name
        threshold, _ = best_threshold(roc(score[~held_out], same[~held_out]))
        correct[held_out] = (score[held_out] >= threshold) == same[held_out]
        per_fold.append(float(correct[held_out].mean()))
        thresholds.append(threshold)
    accuracy = FoldAccuracy(
        mean=float(np.mean(per_fold)),
        standard_error=float(np.std(per_fold, ddof=1) / np.sqrt(len(names))),
        per_fold=tuple(per_fold),
        thresholds=tuple(thresholds),
    )
    return accuracy, correct
