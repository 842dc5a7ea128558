"""Images that are nearly the same: within the data set, and between it and a test set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frtrain.curation.findings import Duplicates, Overlap
from frtrain.curation.search import Surveyed
from frtrain.data.inspection.duplicates import connected_groups, near_duplicates
from frtrain.data.inspection.groups import groups_of


def find_duplicates(data: Surveyed, distance: int) -> list[Duplicates]:
    """Groups of nearly equal images, those between identities first.

    Of each group the image that fits its identity best comes first: it is the one to keep.

    Args:
        data: the data set.
        distance: largest number of differing bits of two perceptual hashes.
    """
    images = pictures(data)
    hashes = data.embedded.hashes[images]
    root = connected_groups(len(images), near_duplicates(hashes[:, 0], distance, hashes[:, 1:]))
    fit = np.nan_to_num(data.centres.fit, nan=-1.0)
    labels, classes = data.source.labels, data.source.classes
    members, starts, sizes = groups_of(root)
    found = []
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        group = images[members[start : start + size]].tolist()
        best_first = sorted(group, key=lambda image: (-fit[image], image))
        identities = dict.fromkeys(classes[labels[image]] for image in best_first)
        found.append(Duplicates(tuple(best_first), tuple(identities)))
    return sorted(found, key=lambda duplicates: (-len(duplicates.identities), -len(duplicates.images)))


def find_shared_photographs(training: Surveyed, test: Surveyed, distance: int) -> list[Overlap]:
    """Identities of the two sets that have nearly the same photograph, one finding per pair of identities."""
    mine, theirs = pictures(training), pictures(test)
    hashes = np.concatenate([training.embedded.hashes[mine], test.embedded.hashes[theirs]])
    pairs = np.sort(near_duplicates(hashes[:, 0], distance, hashes[:, 1:]), axis=1)
    across = pairs[(pairs[:, 0] < len(mine)) & (pairs[:, 1] >= len(mine))]
    labels = np.unique(
        np.stack(
            [
                training.source.labels[mine[across[:, 0]]],
                test.source.labels[theirs[across[:, 1] - len(mine)]],
            ],
            axis=1,
        ),
        axis=0,
    )
    return [
        Overlap(
            training.source.classes[one],
            test.source.classes[other],
            float(training.centres.centre[one] @ test.centres.centre[other]),
            0.0,
            "photograph",
        )
        for one, other in labels
    ]


def pictures(data: Surveyed) -> NDArray[np.int64]:
    """Numbers of the images that show something: the hash of an even surface is 0."""
    return np.flatnonzero(data.embedded.readable & (data.embedded.hashes[:, 0] != 0))
