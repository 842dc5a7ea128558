from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from frtrain.errors import DataError
from frtrain.evaluation.metrics import measure

GENUINE = np.arange(600) % 60 < 30
FOLD = np.arange(600) // 60


def scores(separation: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=600) + separation * GENUINE


def test_fold_accuracy_is_that_of_an_exhaustive_search_over_the_other_folds():
    score = scores(1.5)
    result = measure(score, GENUINE, FOLD).accuracy
    expected = []
    for fold in range(10):
        others, held_out = fold != FOLD, fold == FOLD
        ranked = np.unique(score[others])
        candidates = np.concatenate([[ranked[0]], (ranked[1:] + ranked[:-1]) / 2, [ranked[-1] + 1]])
        right = [np.mean((score[others] >= t) == GENUINE[others]) for t in candidates]
        best = candidates[len(right) - 1 - int(np.argmax(right[::-1]))]
        expected.append(np.mean((score[held_out] >= best) == GENUINE[held_out]))
    assert result.per_fold == pytest.approx(expected)


def test_standard_error_is_the_sample_deviation_over_the_root_of_the_folds():
    result = measure(scores(1), GENUINE, FOLD).accuracy
    mean = sum(result.per_fold) / 10
    variance = sum((share - mean) ** 2 for share in result.per_fold) / 9
    assert result.mean == pytest.approx(mean)
    assert result.standard_error == pytest.approx((variance / 10) ** 0.5)


def test_accuracy_over_folds_is_not_the_optimistic_one():
    results = [measure(scores(0, seed), GENUINE, FOLD) for seed in range(20)]
    assert np.mean([result.accuracy.mean for result in results]) == pytest.approx(0.5, abs=0.015)
    assert np.mean([result.best_accuracy for result in results]) > 0.52


def test_constant_scores_measure_as_chance_and_do_not_fail():
    result = measure(np.zeros(600), GENUINE, FOLD, resamples=20)
    assert (result.accuracy.mean, result.auc, result.eer) == (0.5, 0.5, 0.5)


def test_perfect_scores_measure_as_perfect_with_a_tight_interval():
    result = measure(GENUINE.astype(float), GENUINE, FOLD, resamples=20)
    assert (result.accuracy.mean, result.auc, result.eer) == (1, 1, 0)
    assert result.intervals is not None
    assert (result.intervals.accuracy.low, result.intervals.accuracy.high) == (1, 1)


def test_four_pairs_in_two_folds_can_be_measured():
    assert measure([0.9, 0.1, 0.8, 0.2], [True, False, True, False], [0, 0, 1, 1], resamples=50).accuracy.mean == 1


def test_order_of_the_pairs_does_not_matter():
    score = scores(1)
    shuffled = np.random.default_rng(1).permutation(600)
    assert measure(score, GENUINE, FOLD) == measure(score[shuffled], GENUINE[shuffled], FOLD[shuffled])


def test_unbalanced_pairs_have_the_auc_of_scikit_learn():
    score, keep = scores(1), GENUINE | (np.arange(600) % 5 == 0)
    assert measure(score[keep], GENUINE[keep], FOLD[keep]).auc == pytest.approx(
        roc_auc_score(GENUINE[keep], score[keep])
    )


def test_a_single_fold_is_refused():
    with pytest.raises(DataError, match="at least two folds"):
        measure(scores(1), GENUINE, np.zeros(600, int))


def test_result_survives_json():
    result = measure(scores(1), GENUINE, FOLD, resamples=20)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["accuracy"]["mean"] == result.accuracy.mean


def test_headline_names_accuracy_with_its_error_and_leaves_unresolved_rates_out():
    headline = measure(GENUINE.astype(float), GENUINE, FOLD).headline()
    assert headline == ("accuracy 100.00 ± 0.00 %  AUC 1.0000  EER 0.00 %  TAR@FAR=0.1 100.00 %  TAR@FAR=0.01 100.00 %")
