"""The searches of curation, on embeddings alone: thresholds, overlap, wrong labels, merges, splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.curation.centres import Centres, dominant_centres, dominant_group
from frtrain.curation.embeddings import Embedded
from frtrain.curation.findings import Merge, Mislabelled, Overlap, Split
from frtrain.curation.likeness import same_names
from frtrain.curation.matches import LEAST_GENUINE, believed, doubts_of_best, nearest_centres
from frtrain.data.encoded import image_name
from frtrain.data.source import Source

STRANGERS = 200_000
"""Image-centre pairs of different identities from which the strangers' cosines are estimated."""

SUPPORTED = 0.5
"""A name with one letter different counts when the likeness is doubted less than this."""

SUSPECTS_AT_ONCE = 65_536
"""A poor model suspects every image of a data set; their embeddings need not all be in memory."""

LEAST_MATCHES = 3
"""`doubts_of_best` needs three candidates."""


@dataclass(frozen=True)
class Surveyed:
    """A data set, embedded and divided into dominant groups.

    Attributes:
        source, embedded, centres: the data, how the model sees them, and what each identity has in common.
        outlier: cosine that a share of strangers reaches (`mislabelled_far`): what fits less is taken for a stranger.
        same: cosine that one stranger in a thousand reaches: what fits at least so well is taken for the same person.
    """

    source: Source
    embedded: Embedded
    centres: Centres
    outlier: float
    same: float

    @cached_property
    def label_of(self) -> dict[str, int]:
        """The label of each identity."""
        return {name: label for label, name in enumerate(self.source.classes)}

    def rows(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings of some images."""
        return self.embedded.rows(indices)


def survey(source: Source, embedded: Embedded, outlier_share: float, seed: int = 0) -> Surveyed:
    """Find the dominant centre of every identity, twice: with plain means first, which give the strangers' cosines.

    Args:
        source: the data.
        embedded: its images as the model sees them.
        outlier_share: share of strangers that look at least so much like an identity as an outlier may.
        seed: of the draw of strangers.
    """
    labels, classes = source.labels, len(source.classes)
    plain = dominant_centres(embedded.rows, labels, embedded.readable, classes, same=-1.0)
    strangers = _strangers(embedded, labels, plain.centre, seed)
    same = float(np.quantile(strangers, 0.999))
    centres = dominant_centres(embedded.rows, labels, embedded.readable, classes, same)
    strangers = _strangers(embedded, labels, centres.centre, seed)
    outlier, same = (float(np.quantile(strangers, share)) for share in (1 - outlier_share, 0.999))
    return Surveyed(source, embedded, centres, outlier, same)


def _strangers(
    embedded: Embedded, labels: NDArray[np.int64], centre: NDArray[np.float32], seed: int
) -> NDArray[np.float32]:
    """Cosines of images with the centres of identities that they are not labelled as."""
    random = np.random.default_rng(seed)
    readable = np.flatnonzero(embedded.readable)
    images = np.sort(random.choice(readable, min(STRANGERS, 20 * len(readable))))
    others = (labels[images] + random.integers(1, len(centre), len(images))) % len(centre)
    cosines = [
        np.einsum("nd,nd->n", embedded.rows(images[at : at + 8192]), centre[others[at : at + 8192]])
        for at in range(0, len(images), 8192)
    ]
    return np.concatenate(cosines)


def find_overlaps(training: Surveyed, test: Surveyed, false_share: float, device: torch.device) -> list[Overlap]:
    """Identities of the test set that the training set holds too, by likeness and by name.

    By likeness: the test identity's centre and its nearest training centre, judged by `doubts_of_best` and `believed`;
    identities of one image are judged among themselves, since a single image is less like a centre than a centre is. By
    name: equal plain names count always, names that differ by one letter when the likeness supports them.

    Args:
        training, test: the two data sets.
        false_share: expected share of false findings among those by likeness.
        device: for the products.
    """
    mine, theirs = training.source.classes, test.source.classes
    used = np.flatnonzero(test.centres.count > 0)
    numbers, cosines = nearest_centres(test.centres.centre[used], training.centres.centre, LEAST_MATCHES, device)
    doubts = np.ones(len(used))
    accepted = np.zeros(len(used), bool)
    if cosines.shape[1] == LEAST_MATCHES:
        single = test.centres.count[used] == 1
        for group, genuine in ((single, image_cosines), (~single, half_cosines)):
            if group.any():
                candidates = (genuine(data) for data in (test, training))
                known = next(
                    (of_one_person for of_one_person in candidates if len(of_one_person) >= LEAST_GENUINE), np.empty(0)
                )
                doubts[group] = doubts_of_best(cosines[group], known)
                accepted[group] = believed(doubts[group], false_share)
    found: dict[tuple[int, int], Overlap] = {}
    for at in np.flatnonzero(accepted):
        pair = int(numbers[at, 0]), int(used[at])
        found[pair] = Overlap(mine[pair[0]], theirs[pair[1]], float(cosines[at, 0]), float(doubts[at]), "embedding")
    row_of = np.full(len(theirs), -1, dtype=np.int64)
    row_of[used] = np.arange(len(used))
    for one, other, exact in same_names(mine, theirs):
        cosine = float(training.centres.centre[one] @ test.centres.centre[other])
        row = row_of[other]
        is_nearest = row >= 0 and cosines.shape[1] > 0 and numbers[row, 0] == one
        doubt = float(doubts[row]) if is_nearest else 1.0
        if exact or doubt < SUPPORTED:
            by = "both" if (one, other) in found else "name"
            found[one, other] = Overlap(mine[one], theirs[other], cosine, doubt, by)
    return sorted(found.values(), key=lambda overlap: (overlap.doubt, -overlap.cosine))


def half_cosines(data: Surveyed) -> NDArray[np.float32]:
    """Cosine between the means of two halves of an identity's dominant group, one for each identity with two images."""
    members = np.flatnonzero(data.centres.dominant)
    members = members[np.argsort(data.source.labels[members], kind="stable")]
    _, starts, counts = np.unique(data.source.labels[members], return_index=True, return_counts=True)
    found = []
    for start, end in zip(starts, starts + counts, strict=True):
        if end - start >= 2:
            rows = data.rows(members[start:end])
            one, other = rows[::2].sum(axis=0), rows[1::2].sum(axis=0)
            found.append(float(one @ other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-12))
    return np.array(found, dtype=np.float32)


def image_cosines(data: Surveyed) -> NDArray[np.float32]:
    """Cosine of each image of a dominant group with the mean of the group's others."""
    several = data.centres.count[data.source.labels] >= 2
    return data.centres.fit[data.centres.dominant & several]


def find_mislabelled(data: Surveyed, device: torch.device) -> list[Mislabelled]:
    """Images that look no more like their identity than strangers do, the least like it first."""
    suspects = np.flatnonzero((data.centres.fit < data.outlier) & ~data.centres.dominant)
    others, cosines = _nearest_others(data, suspects, device)
    found = []
    for at in np.argsort(data.centres.fit[suspects], kind="stable").tolist():
        image, stands_out = int(suspects[at]), cosines[at] >= data.same
        found.append(
            Mislabelled(
                image,
                image_name(data.source, image),
                data.source.classes[int(data.source.labels[image])],
                float(data.centres.fit[image]),
                data.source.classes[int(others[at])] if stands_out else None,
                float(cosines[at]) if stands_out else None,
            )
        )
    return found


def _nearest_others(
    data: Surveyed, images: NDArray[np.int64], device: torch.device
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The identity besides its own that each image looks most like, and their cosine (-2 where there is none): `[n]`."""
    others, cosines = np.zeros(len(images), np.int64), np.full(len(images), -2.0, np.float32)
    for start in range(0, len(images), SUSPECTS_AT_ONCE):
        part = images[start : start + SUSPECTS_AT_ONCE]
        own = data.source.labels[part]
        nearest, likeness = nearest_centres(data.rows(part), data.centres.centre, 1, device, own=own)
        if nearest.shape[1]:
            others[start : start + len(part)], cosines[start : start + len(part)] = nearest[:, 0], likeness[:, 0]
    return others, cosines


def find_merges(data: Surveyed, false_share: float, device: torch.device) -> list[Merge]:
    """Pairs of identities whose centres are nearer than strangers' are, the most certain first."""
    used = np.flatnonzero(data.centres.count > 0)
    centres = data.centres.centre[used]
    numbers, cosines = nearest_centres(centres, centres, LEAST_MATCHES, device, own=np.arange(len(used)))
    if cosines.shape[1] < LEAST_MATCHES:
        return []
    doubts = doubts_of_best(cosines, half_cosines(data))
    pairs: dict[tuple[int, int], Merge] = {}
    for at in np.flatnonzero(believed(doubts, false_share)):
        one, other = sorted((int(used[at]), int(used[numbers[at, 0]])))
        merge = Merge(data.source.classes[one], data.source.classes[other], float(cosines[at, 0]), float(doubts[at]))
        if (one, other) not in pairs or doubts[at] < pairs[one, other].doubt:
            pairs[one, other] = merge
    return sorted(pairs.values(), key=lambda merge: (merge.doubt, -merge.cosine))


def find_splits(data: Surveyed, least_images: int, watch: Callable[[int], None] = lambda label: None) -> list[Split]:
    """Identities whose remaining images form a group of their own, the least alike first.

    Args:
        data: the data set.
        least_images: of a second group.
        watch: is told each label.
    """
    rest = np.flatnonzero(~data.centres.dominant & data.embedded.readable)
    rest = rest[np.argsort(data.source.labels[rest], kind="stable")]
    labels, starts, counts = np.unique(data.source.labels[rest], return_index=True, return_counts=True)
    found = []
    for label, start, end in zip(labels, starts, starts + counts, strict=True):
        watch(int(label))
        images = rest[start:end]
        if len(images) < least_images:
            continue
        group, _, centre = dominant_group(data.rows(images), data.same)
        cosine = float(centre @ data.centres.centre[label])
        if group.sum() >= least_images and cosine < data.same:
            found.append(Split(data.source.classes[label], tuple(int(image) for image in images[group]), cosine))
    return sorted(found, key=lambda split: split.cosine)
