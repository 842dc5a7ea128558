from __future__ import annotations

import numpy as np
import pytest

from frtrain.curation.centres import dominant_centres, dominant_group


def people(counts: list[int], width: int = 64, spread: float = 0.08, seed: int = 0) -> np.ndarray:
    """Embeddings of several people end to end, `counts` of each."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(len(counts), width))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = np.repeat(centres, counts, axis=0) + spread * random.normal(size=(sum(counts), width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_strangers_are_kept_out_of_the_dominant_group():
    embeddings = people([12, 3, 2])
    group, fit, centre = dominant_group(embeddings, same=0.4)
    assert group.tolist() == [True] * 12 + [False] * 5
    assert fit[:12].min() > 0.6 > 0.4 > fit[12:].max()
    assert float(np.linalg.norm(centre)) == pytest.approx(1, abs=1e-5)


def test_the_majority_is_found_wherever_it_stands():
    assert dominant_group(people([3, 12]), same=0.4)[0].tolist() == [False] * 3 + [True] * 12


def test_an_image_is_compared_with_the_others_only():
    pair = people([1, 1])
    _, fit, _ = dominant_group(pair, same=-1.0)
    assert fit.tolist() == pytest.approx([float(pair[0] @ pair[1])] * 2, abs=1e-5)


def test_a_single_image_is_its_own_centre_and_has_no_fit():
    embeddings = people([1])
    group, fit, centre = dominant_group(embeddings, same=0.4)
    assert group.tolist() == [True]
    assert np.isnan(fit[0])
    assert (centre == embeddings[0]).all()


def test_unreadable_images_and_empty_identities_do_not_disturb():
    embeddings = people([4, 4])
    labels = np.array([0, 0, 0, 0, 2, 2, 2, 2])
    readable = np.array([True] * 7 + [False])
    centres = dominant_centres(lambda indices: embeddings[indices], labels, readable, 3, same=0.4)
    assert centres.count.tolist() == [4, 0, 3]
    assert not centres.centre[1].any()
    assert np.isnan(centres.fit[7])
    assert not centres.dominant[7]
