from __future__ import annotations

import numpy as np
import torch

from frtrain.curation.duplicates import find_duplicates, find_shared_photographs
from frtrain.curation.embeddings import Embedded
from frtrain.curation.search import Surveyed, find_merges, find_mislabelled, find_overlaps, find_splits, survey

CPU = torch.device("cpu")
IDENTITIES, IMAGES, WIDTH = 300, 8, 64


class Faces:
    """A source without pixels: labels and names."""

    def __init__(self, labels: np.ndarray, classes: list[str]):
        self.labels, self.classes, self.fingerprint = labels, classes, "faces"

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self.classes[self.labels[index]]}/{index}.jpg"

    def describe(self, index: int) -> str:
        return self.name(index)

    def image(self, index: int) -> np.ndarray:
        raise NotImplementedError


def embeddings(identities: int = IDENTITIES, seed: int = 0) -> np.ndarray:
    """Images of people, `IMAGES` of each: about 0.7 of one person, 0 +- 0.12 of two."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(identities, WIDTH))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = np.repeat(centres, IMAGES, axis=0) + 0.08 * random.normal(size=(identities * IMAGES, WIDTH))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def surveyed(rows: np.ndarray, labels: np.ndarray, classes: list[str] | None = None) -> Surveyed:
    classes = classes or [f"person {label}" for label in range(int(labels.max()) + 1)]
    hashes = np.random.default_rng(1).integers(0, 2**64, (len(rows), 5), dtype=np.uint64)
    embedded = Embedded(rows.astype(np.float16), hashes, np.ones(len(rows), bool))
    return survey(Faces(labels, classes), embedded, outlier_share=0.01)


LABELS = np.repeat(np.arange(IDENTITIES), IMAGES)


def test_planted_overlaps_are_found_by_likeness():
    rows = embeddings()
    planted = np.arange(40)
    in_training = (np.arange(len(rows)) % IMAGES < 4) | ~np.isin(LABELS, planted)
    training = surveyed(rows[in_training], LABELS[in_training])
    others = embeddings(200, seed=9)
    test = surveyed(
        np.concatenate([others, rows[~in_training]]),
        np.concatenate([np.repeat(np.arange(200), IMAGES), 200 + LABELS[~in_training]]),
        [f"stranger {label}" for label in range(200)] + [f"planted {label}" for label in planted],
    )
    found = {(overlap.identity, overlap.other) for overlap in find_overlaps(training, test, 0.05, CPU)}
    right = found & {(f"person {label}", f"planted {label}") for label in planted}
    assert len(right) / len(planted) >= 0.95
    assert len(right) / len(found) >= 0.95


def test_equal_names_overlap_whatever_they_look_like():
    data = surveyed(
        embeddings(20), LABELS[: 20 * IMAGES], ["Jürgen_Müller", *(f"a {n} b" for n in "cdefghijklmnopqrstu")]
    )
    test = surveyed(embeddings(5, seed=3), LABELS[: 5 * IMAGES], ["x y", "Muller, Jurgen", "q", "r", "s"])
    overlaps = find_overlaps(data, test, 0.05, CPU)
    assert [(overlap.identity, overlap.other, overlap.by) for overlap in overlaps] == [
        ("Jürgen_Müller", "Muller, Jurgen", "name")
    ]


def test_images_under_a_wrong_name_are_found_and_their_identity_suggested():
    labels = LABELS.copy()
    wrong = np.random.default_rng(2).choice(len(labels), 48, replace=False)
    labels[wrong] = (labels[wrong] + 7) % IDENTITIES
    found = {case.image: case for case in find_mislabelled(surveyed(embeddings(), labels), CPU)}
    right = set(found) & set(wrong.tolist())
    assert len(right) / len(wrong) >= 0.95
    assert len(right) / len(found) >= 0.9
    assert all(found[image].suggestion == f"person {LABELS[image]}" for image in right)


def test_an_identity_that_is_there_twice_is_found():
    labels = LABELS.copy()
    twice = np.arange(12)
    second_half = np.isin(labels, twice) & (np.arange(len(labels)) % IMAGES >= 4)
    labels[second_half] += IDENTITIES
    found = {(merge.identity, merge.other) for merge in find_merges(surveyed(embeddings(), labels), 0.05, CPU)}
    assert found == {(f"person {label}", f"person {label + IDENTITIES}") for label in twice}


def test_an_identity_of_two_people_is_found_with_the_images_of_the_second():
    labels = LABELS.copy()
    moved = np.flatnonzero(labels == 5)[:4]
    labels[moved] = 9
    (split,) = find_splits(surveyed(embeddings(), labels), 3)
    assert split.identity == "person 9"
    assert split.images == tuple(moved.tolist())


def test_clean_data_have_no_findings_but_a_few_outliers():
    data = surveyed(embeddings(), LABELS)
    assert find_merges(data, 0.05, CPU) == []
    assert find_splits(data, 3) == []
    assert len(find_mislabelled(data, CPU)) <= 0.001 * len(LABELS)


def test_of_nearly_equal_images_the_best_fitting_one_is_kept():
    data = surveyed(embeddings(10), LABELS[: 10 * IMAGES])
    data.embedded.hashes[70] = data.embedded.hashes[3]
    data.embedded.hashes[70, 0] ^= np.uint64(0b11)
    data.centres.fit[[3, 70]] = 0.5, 0.6
    (group,) = find_duplicates(data, 2)
    assert group.images == (70, 3)
    assert group.identities == ("person 8", "person 0")


def test_a_photograph_in_both_sets_tells_of_an_overlap():
    data, test = (surveyed(embeddings(10, seed), LABELS[: 10 * IMAGES]) for seed in (0, 1))
    test.embedded.hashes[:] = np.random.default_rng(2).integers(0, 2**64, (len(test.source), 5), dtype=np.uint64)
    test.embedded.hashes[9] = data.embedded.hashes[20]
    (overlap,) = find_shared_photographs(data, test, 4)
    assert (overlap.identity, overlap.other, overlap.by) == ("person 2", "person 1", "photograph")
