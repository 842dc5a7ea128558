"""How far verification numbers would move on another draw of pairs: the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frtrain.evaluation.roc import check_scores, impostors_allowed, ranking

CONFIDENCE = 0.95
ELEMENTS_AT_ONCE = 2_000_000
BAND_POINTS = 120


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class RocBand:
    """Pointwise confidence band of the ROC: TAR between `low` and `high` at each of the `far`."""

    far: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Bootstrap:
    """Confidence intervals of one `Verification`.

    Attributes:
        accuracy, auc, eer: intervals of the numbers of the same name.
        tar: one interval per operating point.
        band: the ROC's band, on FARs from one impostor pair to all.
        confidence, resamples, seed: how they were made.
    """

    accuracy: Interval
    auc: Interval
    eer: Interval
    tar: tuple[Interval, ...]
    band: RocBand
    confidence: float
    resamples: int
    seed: int


def bootstrap(
    scores: ArrayLike,
    genuine: ArrayLike,
    fold: ArrayLike,
    correct: ArrayLike,
    far_targets: Sequence[float],
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Bootstrap:
    """Resample pairs with replacement, genuine and impostor pairs apart, and take percentiles (Efron 1979).

    Pairs are treated as independent. Where a person or an image is in many pairs they are not quite, and the true
    spread is somewhat wider. The thresholds of the folds are kept as they were chosen.

    Args:
        scores, genuine: `[P]` as for `roc`.
        fold: `int [P]`, the fold of each pair.
        correct: `bool [P]`, whether the threshold of the other folds decides the pair rightly.
        far_targets: the bounds of the operating points.
        resamples: number of resampled sets.
        seed: of the resampling.
        confidence: share of the resampled numbers inside the interval.
    """
    score, same = check_scores(scores, genuine)
    order, last = ranking(score)
    same = same[order]
    genuine_count, impostor_count = int(same.sum()), int((~same).sum())
    in_fold = (np.asarray(fold)[order][:, None] == np.unique(np.asarray(fold))).astype(np.float32)
    right_in_fold = in_fold * np.asarray(correct, dtype=np.float32)[order][:, None]
    band_far = np.geomspace(min(1 / impostor_count, 0.5), 1, BAND_POINTS)
    allowed = [impostors_allowed(far, impostor_count) for far in (*far_targets, *band_far)]

    accuracies, areas, errors, rates = [], [], [], []
    for weight in _weights(same, resamples, np.random.default_rng(seed)):
        tar = _accepted(weight * same, last) / genuine_count
        accepted_impostor = _accepted(weight * ~same, last)
        far = accepted_impostor / impostor_count
        in_sample = weight.astype(np.float32)
        with np.errstate(invalid="ignore"):  # a small fold may be absent from a resample
            accuracies.append(np.nanmean((in_sample @ right_in_fold) / (in_sample @ in_fold), axis=1))
        areas.append(np.sum(np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1]) / 2, axis=1))
        errors.append(_equal_error_rates(far, tar))
        at = [np.searchsorted(row, allowed, "right") - 1 for row in accepted_impostor]
        rates.append(np.take_along_axis(tar, np.stack(at), axis=1))

    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    tar_low, tar_high = np.quantile(np.concatenate(rates), tails, axis=0)
    targets = len(far_targets)
    return Bootstrap(
        accuracy=_interval(accuracies, tails),
        auc=_interval(areas, tails),
        eer=_interval(errors, tails),
        tar=tuple(Interval(float(a), float(b)) for a, b in zip(tar_low[:targets], tar_high[:targets], strict=True)),
        band=RocBand(tuple(band_far.tolist()), tuple(tar_low[targets:].tolist()), tuple(tar_high[targets:].tolist())),
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )


def _weights(same: NDArray[np.bool_], resamples: int, random: np.random.Generator) -> Iterator[NDArray[np.int32]]:
    """How often each pair is drawn, `[R, P]`, in portions that fit the memory."""
    pairs = len(same)
    portion = max(1, ELEMENTS_AT_ONCE // pairs)
    for start in range(0, resamples, portion):
        rows = min(portion, resamples - start)
        weight = np.zeros((rows, pairs), dtype=np.int32)
        for stratum in (np.flatnonzero(same), np.flatnonzero(~same)):
            count = len(stratum)
            drawn = random.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
            weight[:, stratum] = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield weight


def _accepted(weight: NDArray[np.int32], last: NDArray[np.intp]) -> NDArray[np.int32]:
    """Weight accepted at each distinct score, `[R, K]`, with "accept none" in front."""
    accepted = np.cumsum(weight, axis=1, dtype=np.int32)[:, last]
    return np.pad(accepted, ((0, 0), (1, 0)))


def _equal_error_rates(far: NDArray[np.float64], tar: NDArray[np.float64]) -> NDArray[np.float64]:
    """`frtrain.evaluation.roc.equal_error_rate` row by row."""
    excess = far + tar - 1
    row = np.arange(len(far))
    after = np.argmax(excess >= 0, axis=1)
    before = after - 1
    step = -excess[row, before] / (excess[row, after] - excess[row, before])
    return far[row, before] + step * (far[row, after] - far[row, before])


def _interval(values: Sequence[NDArray[np.floating]], tails: list[float]) -> Interval:
    low, high = np.quantile(np.concatenate(values), tails)
    return Interval(float(low), float(high))
