"""The receiver operating characteristic of pair scores, exactly, by sorting. Ties are one step of the curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frtrain.errors import DataError

FAR_TARGETS = (1e-1, 1e-2, 1e-3)


@dataclass(frozen=True)
class OperatingPoint:
    """The true accept rate at a bound on the false accept rate.

    Attributes:
        far_target: the bound.
        far: the share of impostor pairs with `score >= threshold`; the largest attainable that is `<= far_target`.
        tar: the share of genuine pairs with `score >= threshold`.
        threshold: accept a pair when its score is `>= threshold`.
        resolved: there are at least `1 / far_target` impostor pairs. Where not, the point is the one without any
            false accept, which says little about `far_target`.
    """

    far_target: float
    far: float
    tar: float
    threshold: float
    resolved: bool


@dataclass(frozen=True, eq=False)
class Roc:
    """Every distinct decision that a threshold can make, from "accept none" to "accept all".

    Attributes:
        threshold: `float64 [K]`, falling; a pair is accepted when `score >= threshold`. Each lies midway between
            two neighbouring scores, so it does not depend on the last bit of either; the first is just above the
            highest score, the last is the lowest score.
        accepted_genuine, accepted_impostor: `int64 [K]`, pairs accepted at each threshold.
    """

    threshold: NDArray[np.float64]
    accepted_genuine: NDArray[np.int64]
    accepted_impostor: NDArray[np.int64]

    @property
    def genuine(self) -> int:
        """Number of genuine pairs."""
        return int(self.accepted_genuine[-1])

    @property
    def impostor(self) -> int:
        """Number of impostor pairs."""
        return int(self.accepted_impostor[-1])

    @property
    def tar(self) -> NDArray[np.float64]:
        """True accept rate `[K]`, rising from 0 to 1."""
        return self.accepted_genuine / self.genuine

    @property
    def far(self) -> NDArray[np.float64]:
        """False accept rate `[K]`, rising from 0 to 1."""
        return self.accepted_impostor / self.impostor


def roc(scores: ArrayLike, genuine: ArrayLike) -> Roc:
    """Sort the scores into their ROC.

    Args:
        scores: `[P]`, higher means more alike.
        genuine: `bool [P]`, whether both images show one person.

    Raises:
        DataError: scores are not finite, or there is no genuine or no impostor pair.
    """
    score, same = check_scores(scores, genuine)
    order, last = ranking(score)
    accepted_genuine = np.cumsum(same[order], dtype=np.int64)[last]
    distinct = score[order][last]
    return Roc(
        threshold=np.concatenate([[_above(distinct[0])], midway(distinct[1:], distinct[:-1]), distinct[-1:]]),
        accepted_genuine=np.concatenate([[0], accepted_genuine]),
        accepted_impostor=np.concatenate([[0], last + 1 - accepted_genuine]),
    )


def check_scores(scores: ArrayLike, genuine: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores as `float64 [P]` and labels as `bool [P]`.

    Raises:
        DataError: shapes differ, scores are not finite, or there is no genuine or no impostor pair.
    """
    score = np.asarray(scores, dtype=np.float64)
    same = np.asarray(genuine, dtype=np.bool_)
    if score.ndim != 1 or score.shape != same.shape:
        raise DataError(f"scores {score.shape} and genuine {same.shape} must be two vectors of one length")
    broken = np.flatnonzero(~np.isfinite(score))
    if len(broken):
        raise DataError(
            f"{len(broken):,} of {len(score):,} pair scores are not finite (first: pair {broken[0]}); "
            "the embeddings hold NaN or infinity"
        )
    if not same.any() or same.all():
        raise DataError(
            f"{int(same.sum()):,} genuine and {int((~same).sum()):,} impostor pairs: "
            "verification needs at least one of each"
        )
    return score, same


def ranking(score: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order of falling score `[P]`, and in it the position of the last pair of each distinct score `[K - 1]`."""
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    return order, np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))


def midway(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """A threshold that accepts `high` and rejects `low`, for `low < high`: their middle, or `high` if that rounds."""
    middle = low + (high - low) / 2
    return np.where(middle > low, middle, high)


def auc(curve: Roc) -> float:
    """Area under the ROC: the chance that a genuine pair outscores an impostor pair, a tie counting one half."""
    tar, far = curve.tar, curve.far
    return float(np.sum(np.diff(far) * (tar[1:] + tar[:-1]) / 2))


def equal_error_rate(curve: Roc) -> tuple[float, float]:
    """The rate at which false accepts equal false rejects, and the nearest threshold.

    The rate is interpolated along the straight line between the two decisions around the crossing, so it is defined
    with ties, too: constant scores give 0.5.
    """
    far, frr = curve.far, 1 - curve.tar
    excess = far - frr
    after = int(np.argmax(excess >= 0))
    before = after - 1
    step = -excess[before] / (excess[after] - excess[before])
    nearest = before if -excess[before] < excess[after] else after
    return float(far[before] + step * (far[after] - far[before])), float(curve.threshold[nearest])


def operating_points(curve: Roc, far_targets: Sequence[float] = FAR_TARGETS) -> tuple[OperatingPoint, ...]:
    """The lowest threshold, hence the highest TAR, whose FAR does not exceed each target."""
    points = []
    for target in far_targets:
        index = int(np.searchsorted(curve.accepted_impostor, impostors_allowed(target, curve.impostor), "right")) - 1
        points.append(
            OperatingPoint(
                far_target=float(target),
                far=float(curve.far[index]),
                tar=float(curve.tar[index]),
                threshold=float(curve.threshold[index]),
                resolved=impostors_allowed(target, curve.impostor) >= 1,
            )
        )
    return tuple(points)


def impostors_allowed(far_target: float, impostors: int) -> int:
    """How many of `impostors` pairs may be accepted at a FAR of at most `far_target`."""
    rounding = 1e-9  # 0.001 * 3000 is below 3 in binary
    return int(np.floor(far_target * impostors + rounding))


def best_threshold(curve: Roc) -> tuple[float, float]:
    """The threshold with the most correct decisions, and their share.

    Of several the highest is taken, the one with the fewest false accepts.
    """
    correct = curve.accepted_genuine - curve.accepted_impostor
    index = int(np.argmax(correct))
    return float(curve.threshold[index]), float((correct[index] + curve.impostor) / (curve.genuine + curve.impostor))


def _above(score: np.float64) -> np.float64:
    return np.nextafter(score, np.inf)
