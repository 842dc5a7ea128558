from __future__ import annotations

import math

import numpy as np
import pytest

from frtrain.evaluation.metrics import Verification, measure
from frtrain.evaluation.roc import auc, equal_error_rate, operating_points, roc

PAIRS = 400
GENUINE = np.arange(PAIRS) % 40 < 20
FOLD = np.arange(PAIRS) // 40


def draw(seed: int, resamples: int = 300, decimals: int = 12) -> Verification:
    score = (np.random.default_rng(seed).normal(size=PAIRS) + 1.5 * GENUINE).round(decimals)
    return measure(score, GENUINE, FOLD, far_targets=[0.1], resamples=resamples)


def test_intervals_cover_the_true_area_as_often_as_they_claim():
    truth = 0.5 * (1 + math.erf(1.5 / 2))  # P(N(1.5, 1) > N(0, 1))
    covered = [
        (i := draw(seed, resamples=200).intervals) is not None and i.auc.low <= truth <= i.auc.high
        for seed in range(60)
    ]
    assert 52 <= sum(covered) <= 60


def test_intervals_surround_the_numbers():
    result = draw(0)
    assert result.intervals is not None
    assert result.intervals.accuracy.low < result.accuracy.mean < result.intervals.accuracy.high
    assert result.intervals.auc.low < result.auc < result.intervals.auc.high
    assert result.intervals.eer.low < result.eer < result.intervals.eer.high
    assert result.intervals.tar[0].low < result.operating_points[0].tar < result.intervals.tar[0].high


def test_accuracy_interval_has_the_width_of_the_binomial():
    result = draw(1, resamples=2000)
    assert result.intervals is not None
    width = result.intervals.accuracy.high - result.intervals.accuracy.low
    accuracy = result.accuracy.mean
    assert width == pytest.approx(2 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / PAIRS), rel=0.12)


@pytest.mark.parametrize("decimals", [12, 0])
def test_resampled_numbers_are_those_of_the_resampled_pairs(decimals):
    """One resample: its interval is one point, which is recomputed from the pairs that were drawn."""
    score = (np.random.default_rng(5).normal(size=PAIRS) + GENUINE).round(decimals)
    result = measure(score, GENUINE, FOLD, far_targets=[0.1], resamples=1, seed=9).intervals
    assert result is not None
    order = np.argsort(-score, kind="stable")
    random = np.random.default_rng(9)
    genuine, impostor = order[GENUINE[order]], order[~GENUINE[order]]
    drawn = np.concatenate([kind[random.integers(0, len(kind), (1, len(kind)))[0]] for kind in (genuine, impostor)])
    curve = roc(score[drawn], GENUINE[drawn])
    assert result.auc.low == pytest.approx(auc(curve))
    assert result.eer.low == pytest.approx(equal_error_rate(curve)[0])
    assert result.tar[0].low == pytest.approx(operating_points(curve, [0.1])[0].tar)


def test_same_seed_gives_the_same_intervals():
    assert draw(2).intervals == draw(2).intervals


def test_portions_of_the_resamples_do_not_change_the_intervals_much(monkeypatch):
    whole = draw(3, resamples=1000).intervals
    monkeypatch.setattr("frtrain.evaluation.bootstrap.ELEMENTS_AT_ONCE", PAIRS * 7)
    portions = draw(3, resamples=1000).intervals
    assert whole is not None
    assert portions is not None
    assert portions.auc.low == pytest.approx(whole.auc.low, abs=0.01)


def test_no_resamples_means_no_intervals():
    assert draw(4, resamples=0).intervals is None
