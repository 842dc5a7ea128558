"""Groups of duplicate images: the same file, the same pixels, or nearly the same picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frtrain.data.inspection.duplicates import connected_groups, near_duplicates
from frtrain.data.inspection.scan import Scan

Kind = Literal["file", "pixels", "near"]

FEATURELESS = 2.0
"""Grey levels of contrast below which an image shows nothing that could be nearly the same as something else."""


@dataclass(frozen=True)
class Level:
    """Duplicates of one kind and of the kinds before it.

    Attributes:
        kind: file: the same encoded bytes. pixels: the same size and pixels. near: nearly the same picture.
        groups: of two or more images.
        images: in all groups.
        surplus: images beyond the first of each group.
        between: groups with images of several identities; the others lie within one.
    """

    kind: Kind
    groups: int
    images: int
    surplus: int
    between: int

    @property
    def within(self) -> int:
        """Groups within one identity."""
        return self.groups - self.between


@dataclass(frozen=True)
class Group:
    """Images that are duplicates of each other.

    Attributes:
        kind: what all of them share; near: at least two are only nearly the same.
        images: positions in the source, ascending.
        identities: how many identities they are labelled with.
    """

    kind: Kind
    images: tuple[int, ...]
    identities: int


@dataclass(frozen=True)
class Duplicates:
    """All duplicates of a data set.

    Attributes:
        levels: from strict to lax; each includes those before it.
        groups: those of the last level: between identities first, then by number of images.
    """

    levels: tuple[Level, ...]
    groups: tuple[Group, ...]


def find_duplicates(scan: Scan, labels: NDArray[np.int64], distance: int | None) -> Duplicates:
    """Group what the scan has read.

    Args:
        scan: what was measured.
        labels: `int64 [N]` of the whole source.
        distance: bits in which the 64-bit perceptual hashes of near duplicates may differ; None: they are not looked for.
    """
    read = scan.readable()
    measures = read.measures
    roots: dict[Kind, NDArray[np.int64]] = {}
    if len(read) and (measures["bytes"] > 0).all():
        roots["file"] = _roots_of_equal(measures["file_digest"])
    roots["pixels"] = _roots_of_equal(measures["pixel_digest"])
    if distance is not None:
        own = np.arange(len(read))
        first = np.flatnonzero((roots["pixels"] == own) & (measures["contrast"] >= FEATURELESS))
        near = first[near_duplicates(measures["hash"][first], distance, measures["fine_hash"][first])]
        roots["near"] = connected_groups(len(read), np.concatenate([np.stack([own, roots["pixels"]], axis=1), near]))
    of_images = labels[read.indices]
    levels = tuple(_level(kind, *groups_of(root), of_images) for kind, root in roots.items())
    return Duplicates(levels, _listed(roots, read.indices, of_images))


def _roots_of_equal(digests: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each row of `[n, 2]` the first position with an equal row."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    root = np.empty(len(order), dtype=np.int64)
    root[order] = order[np.flatnonzero(new)][np.cumsum(new) - 1]  # lexsort is stable: the first of a run comes first
    return root


def groups_of(root: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Groups of two or more, of the result of `connected_groups`.

    Returns:
        Members, group after group; where each group starts among them; how many it has. All `int64`.
    """
    order = np.argsort(root, kind="stable")
    _, sizes = np.unique(root, return_counts=True)
    members = order[np.repeat(sizes, sizes) > 1]
    sizes = sizes[sizes > 1]
    return members, np.cumsum(sizes) - sizes, sizes


def _level(
    kind: Kind,
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> Level:
    between = 0
    if len(sizes):
        of_members = labels[members]
        between = int((np.minimum.reduceat(of_members, starts) != np.maximum.reduceat(of_members, starts)).sum())
    return Level(kind, len(sizes), len(members), len(members) - len(sizes), between)


def _listed(
    roots: dict[Kind, NDArray[np.int64]], indices: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[Group, ...]:
    *stricter, last = roots
    members, starts, sizes = groups_of(roots[last])
    groups = []
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        of_group = members[start : start + size]
        kind = next((kind for kind in stricter if (roots[kind][of_group] == roots[kind][of_group[0]]).all()), last)
        groups.append(Group(kind, tuple(indices[of_group].tolist()), len(np.unique(labels[of_group]))))
    return tuple(sorted(groups, key=lambda group: (group.identities == 1, -len(group.images), group.images)))
