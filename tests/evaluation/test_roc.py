from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from frtrain.errors import DataError
from frtrain.evaluation.roc import auc, best_threshold, equal_error_rate, operating_points, roc


def scored(seed: int, pairs: int = 400, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    genuine = random.random(pairs) < 0.4
    scores = random.normal(size=pairs) + genuine
    return (scores if decimals is None else scores.round(decimals)), genuine


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_auc_is_that_of_scikit_learn_with_and_without_ties(decimals):
    scores, genuine = scored(0, decimals=decimals)
    assert auc(roc(scores, genuine)) == pytest.approx(roc_auc_score(genuine, scores), abs=1e-12)


def test_auc_is_the_share_of_ordered_pairs_with_half_credit_for_ties():
    scores, genuine = scored(1, pairs=60, decimals=0)
    difference = scores[genuine][:, None] - scores[~genuine][None]
    assert auc(roc(scores, genuine)) == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean(), abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_every_point_of_the_curve_is_what_its_threshold_does(decimals):
    scores, genuine = scored(2, pairs=120, decimals=decimals)
    curve = roc(scores, genuine)
    accepted = scores[None] >= curve.threshold[:, None]
    np.testing.assert_array_equal(curve.accepted_genuine, (accepted & genuine).sum(1))
    np.testing.assert_array_equal(curve.accepted_impostor, (accepted & ~genuine).sum(1))


def test_thresholds_lie_midway_between_neighbouring_scores():
    curve = roc([0.2, 0.4, 0.8], [False, True, True])
    np.testing.assert_allclose(curve.threshold[1:], [0.6, 0.3, 0.2])


def test_threshold_between_adjacent_floats_still_separates_them():
    low = 0.3
    high = np.nextafter(low, 1)
    curve = roc([low, high], [False, True])
    assert low < curve.threshold[1] <= high


@pytest.mark.parametrize("target", [0.5, 0.1, 0.01, 0.001])
def test_tar_at_far_is_the_best_that_any_threshold_attains(target):
    scores, genuine = scored(3, decimals=1)
    (point,) = operating_points(roc(scores, genuine), [target])
    candidates = [*np.unique(scores), scores.max() + 1]
    allowed = [c for c in candidates if np.mean(scores[~genuine] >= c) <= target]
    assert point.tar == max(np.mean(scores[genuine] >= c) for c in allowed)


@pytest.mark.parametrize("target", [0.5, 0.1, 0.01, 0.001])
def test_threshold_of_an_operating_point_attains_its_rates(target):
    scores, genuine = scored(4, decimals=1)
    (point,) = operating_points(roc(scores, genuine), [target])
    assert point.far == np.mean(scores[~genuine] >= point.threshold) <= target
    assert point.tar == np.mean(scores[genuine] >= point.threshold)


def test_far_of_exactly_three_in_three_thousand_is_allowed_three_impostors():
    impostors = np.linspace(0, 1, 3000)
    curve = roc(np.append(impostors, impostors[-3]), np.append(np.zeros(3000, bool), True))
    (point,) = operating_points(curve, [0.001])
    assert point.far == pytest.approx(0.001)
    assert point.tar == 1


def test_point_with_too_few_impostors_is_reported_and_flagged():
    scores, genuine = scored(5, pairs=500)
    resolved = {point.far_target: point.resolved for point in operating_points(roc(scores, genuine), [0.01, 0.001])}
    assert resolved == {0.01: True, 0.001: False}


def test_equal_error_rate_of_two_shifted_normals_is_the_textbook_one():
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    normal = np.sort(np.random.default_rng(0).normal(size=200_000))[(quantiles * 200_000).astype(int)]
    rate, threshold = equal_error_rate(roc(np.append(normal + 2, normal), np.repeat([True, False], 20_000)))
    assert rate == pytest.approx(0.158655, abs=2e-3)  # the normal distribution function at -1
    assert threshold == pytest.approx(1, abs=2e-2)


def test_equal_error_rate_is_interpolated_between_decisions():
    # Decisions (FAR, FRR): (0, 1) (0, 0.5) (1, 0.5) (1, 0): the crossing is halfway along the second step.
    rate, _ = equal_error_rate(roc([3, 2, 1], [True, False, True]))
    assert rate == pytest.approx(0.5)


def test_constant_scores_are_chance():
    curve = roc(np.ones(10), np.arange(10) < 5)
    assert (auc(curve), equal_error_rate(curve)[0], best_threshold(curve)[1]) == (0.5, 0.5, 0.5)


def test_perfect_scores_are_perfect():
    curve = roc([0.9, 0.8, 0.2, 0.1], [True, True, False, False])
    assert (auc(curve), equal_error_rate(curve)[0]) == (1, 0)
    assert best_threshold(curve) == (pytest.approx(0.5), 1)


@pytest.mark.parametrize("decimals", [None, 0])
def test_best_threshold_beats_every_other(decimals):
    scores, genuine = scored(6, decimals=decimals)
    threshold, accuracy = best_threshold(roc(scores, genuine))
    assert accuracy == np.mean((scores >= threshold) == genuine)
    assert accuracy == max(np.mean((scores >= t) == genuine) for t in [*scores, scores.max() + 1])


def test_of_equally_good_thresholds_the_highest_is_taken():
    threshold, _ = best_threshold(roc([4, 3, 2, 1], [True, False, True, False]))
    assert threshold == 3.5


def test_one_genuine_and_one_impostor_pair_suffice():
    assert auc(roc([1, 0], [True, False])) == 1


def test_non_finite_scores_are_refused_with_their_number():
    with pytest.raises(DataError, match=r"2 of 4 pair scores are not finite \(first: pair 1\)"):
        roc([0, np.nan, 1, np.inf], [True, False, True, False])


@pytest.mark.parametrize("genuine", [[True, True], [False, False]])
def test_pairs_of_one_kind_only_are_refused(genuine):
    with pytest.raises(DataError, match="at least one of each"):
        roc([0, 1], genuine)
