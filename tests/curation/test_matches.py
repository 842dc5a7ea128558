from __future__ import annotations

import numpy as np
import pytest
import torch

from frtrain.curation.matches import believed, doubts_of_best, nearest_centres

CPU = torch.device("cpu")


def directions(count: int, width: int = 64, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_nearest_centres_are_those_of_a_full_product(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("frtrain.curation.matches.ROWS", 7)
    monkeypatch.setattr("frtrain.curation.matches.COLUMNS", 11)
    queries, centres = directions(40), directions(53, seed=1)
    numbers, cosines = nearest_centres(queries, centres, 3, CPU)
    expected = np.argsort(-(queries @ centres.T), axis=1)[:, :3]
    assert (numbers == expected).all()
    np.testing.assert_allclose(cosines, np.take_along_axis(queries @ centres.T, expected, 1), atol=1e-6)


def test_a_query_is_not_matched_with_its_own_centre(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("frtrain.curation.matches.COLUMNS", 11)
    centres = directions(30)
    numbers, _ = nearest_centres(centres, centres, 29, CPU, own=np.arange(30))
    assert [sorted(row) for row in numbers.tolist()] == [[n for n in range(30) if n != own] for own in range(30)]


def test_fewer_centres_than_asked_for_give_fewer_matches():
    assert nearest_centres(directions(4), directions(2, seed=1), 3, CPU)[0].shape == (4, 2)
    assert nearest_centres(directions(1), directions(1), 3, CPU, own=np.zeros(1, np.int64))[0].shape == (1, 0)


def acquaintances(share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """1 000 queries of which a share is in the gallery of 3 000: right numbers (-1: none), nearest numbers, cosines."""
    centres, queries = directions(3000, 128, seed), directions(1000, 128, seed + 1)
    known = round(1000 * share)
    queries[:known] = centres[:known] + 0.75 * directions(known, 128, seed + 2)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    right = np.where(np.arange(1000) < known, np.arange(1000), -1)
    return right, *nearest_centres(queries, centres, 3, CPU)


GENUINE = np.random.default_rng(5).normal(0.8, 0.03, 500)


@pytest.mark.parametrize("share", [0.005, 0.08, 0.6])
def test_acquaintances_among_strangers_are_found(share: float):
    right, numbers, cosines = acquaintances(share)
    found = believed(doubts_of_best(cosines, GENUINE), 0.05)
    correct = (found & (numbers[:, 0] == right)).sum()
    assert correct / (right >= 0).sum() >= 0.95
    assert correct / found.sum() >= 0.95


def test_among_strangers_alone_nobody_is_found():
    _, _, cosines = acquaintances(0.0)
    assert not believed(doubts_of_best(cosines, GENUINE), 0.05).any()


def test_without_known_pairs_clear_cases_are_still_found():
    right, numbers, cosines = acquaintances(0.08)
    found = believed(doubts_of_best(cosines, np.empty(0)), 0.05)
    assert (found & (numbers[:, 0] == right)).sum() >= 76
    assert found.sum() <= 92


def test_a_better_match_is_never_doubted_more():
    _, _, cosines = acquaintances(0.08)
    doubts = doubts_of_best(cosines, GENUINE)
    assert (np.diff(doubts[np.argsort(cosines[:, 0], kind="stable")]) <= 1e-9).all()


def test_equal_cosines_are_no_evidence():
    assert not believed(doubts_of_best(np.full((50, 3), 0.3, np.float32), GENUINE), 0.05).any()


def test_findings_are_believed_up_to_the_expected_share_of_wrong_ones():
    assert believed(np.array([0.9, 0.01, 0.02, 0.3]), 0.05).tolist() == [False, True, True, False]
    assert believed(np.array([0.01, 0.02, 0.12]), 0.05).all()
    assert believed(np.array([]), 0.05).tolist() == []
