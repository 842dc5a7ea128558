"""How many planted faults `frtrain curate` finds, and how many of its findings are wrong, on synthetic people.

    python -m frtrain trainer.epochs=8 run_dir=runs/curator          # a model that knows other synthetic people
    python scripts/bench_curation.py runs/curator

640 people that the model has not seen, 10 images of each. Planted, once per seed: 40 of 220 people of a test set are also
among 460 training identities, with other images; 2 % of the images under a wrong name; 30 people under two names; 30
identities with a second person's 4 images.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.curation.embeddings import Embedded
from frtrain.curation.search import Surveyed, find_merges, find_mislabelled, find_overlaps, find_splits, survey
from frtrain.data import SOURCES
from frtrain.deploy.embedder import load_embedder
from frtrain.evaluation.embed import embed_images

PEOPLE, IMAGES, FIRST = 640, 10, 5000
TRAINING, PLANTED = 460, 40
WRONG_SHARE, DOUBLES = 0.02, 30
CPU = torch.device("cpu")


class Labelled:
    """Labels and names without pixels."""

    def __init__(self, labels: NDArray[np.int64], classes: list[str]):
        self.classes: Sequence[str] = classes
        self.labels, self.fingerprint = labels, "planted"

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> NDArray[np.uint8]:
        raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder")
    parser.add_argument("--seeds", type=int, default=6)
    arguments = parser.parse_args()
    source = SOURCES.build(
        {
            "name": "synthetic",
            "identities": PEOPLE,
            "images_per_identity": IMAGES,
            "seed": 0,
            "first_identity": FIRST,
            "cache": "auto",
        }
    )
    embedder = load_embedder(arguments.model, CPU)
    embeddings = embed_images(embedder.embed, source.image, len(source), 256, flip=False).astype(np.float16)
    totals: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, np.int64))
    for seed in range(arguments.seeds):
        for what, counts in planted_and_found(embeddings, source.labels, np.random.default_rng(seed)):
            totals[what] += counts
    print(f"{embedder.description}, {arguments.seeds} seeds")
    for what, (planted, found, right) in totals.items():
        print(
            f"{what:28} recall {right / planted:.3f} ({right} of {planted})   precision {right / max(found, 1):.3f} ({right} of {found})"
        )


def planted_and_found(
    embeddings: NDArray[np.float16], people: NDArray[np.int64], random: np.random.Generator
) -> Iterable[tuple[str, NDArray[np.int64]]]:
    """What was planted, and how many: planted, found, rightly found."""
    number = np.arange(len(people)) % IMAGES
    order = random.permutation(PEOPLE)
    training, strangers, known = order[:TRAINING], order[TRAINING:], order[:PLANTED]
    in_training = np.isin(people, training) & ((number < IMAGES // 2) | ~np.isin(people, known))
    in_test = (number >= IMAGES // 2) & np.isin(people, [*strangers, *known])
    overlaps = find_overlaps(
        surveyed(embeddings[in_training], people[in_training], "a"),
        surveyed(embeddings[in_test], people[in_test], "b"),
        0.05,
        CPU,
    )
    yield (
        "people of the test set",
        counted(
            {(overlap.identity, overlap.other) for overlap in overlaps},
            {(f"a {person}", f"b {person}") for person in known},
        ),
    )

    labels = people.copy()
    wrong = random.choice(len(labels), round(WRONG_SHARE * len(labels)), replace=False)
    labels[wrong] = (labels[wrong] + random.integers(1, PEOPLE, len(wrong))) % PEOPLE
    cases = find_mislabelled(surveyed(embeddings, labels, ""), CPU)
    yield "images under a wrong name", counted({case.image for case in cases}, set(wrong.tolist()))

    labels = people.copy()
    doubled = random.choice(PEOPLE, DOUBLES, replace=False)
    second = np.isin(labels, doubled) & (number >= IMAGES // 2)
    labels[second] += PEOPLE
    merges = find_merges(surveyed(embeddings, labels, ""), 0.05, CPU)
    yield (
        "people under two names",
        counted(
            {(merge.identity, merge.other) for merge in merges},
            {(f" {person}", f" {person + PEOPLE}") for person in doubled},
        ),
    )

    labels = people.copy()
    mixed, guests = np.split(random.choice(PEOPLE, 2 * DOUBLES, replace=False), 2)
    for host, guest in zip(mixed, guests, strict=True):
        labels[(people == guest) & (number >= IMAGES - 4)] = host
    splits = find_splits(surveyed(embeddings, labels, ""), 3)
    yield "identities of two people", counted({split.identity for split in splits}, {f" {host}" for host in mixed})


def surveyed(embeddings: NDArray[np.float16], labels: NDArray[np.int64], prefix: str) -> Surveyed:
    """Divided into dominant groups as `frtrain curate` does."""
    names, labels = np.unique(labels, return_inverse=True)
    embedded = Embedded(embeddings, np.zeros((len(labels), 5), np.uint64), np.ones(len(labels), bool))
    return survey(Labelled(labels.astype(np.int64), [f"{prefix} {name}" for name in names]), embedded, 0.01)


def counted(found: set[object], planted: set[object]) -> NDArray[np.int64]:
    """Planted, found, rightly found."""
    return np.array([len(planted), len(found), len(found & planted)])


if __name__ == "__main__":
    main()
