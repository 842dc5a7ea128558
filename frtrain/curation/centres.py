"""The dominant centre of every identity: the mean of the images that agree, whatever else lies in its folder.

After Deng et al., "Sub-center ArcFace" (ECCV 2020): noisy labels collect away from an identity's dominant sub-centre. Here
no sub-centres are trained; the images of an identity are divided by how well they fit the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4
SEEDS = 64
"""Images that are tried as the heart of an identity; more are not needed to find a majority."""


@dataclass(frozen=True)
class Centres:
    """What the images of each identity have in common.

    Attributes:
        centre: `float32 [C, d]` of length 1; zero for an identity without a readable image.
        count: `int64 [C]`, images that the centre is the mean of.
        fit: `float32 [N]`: cosine of each image with its identity's dominant centre, made without that image; NaN where
            there is nothing to compare with.
        dominant: `bool [N]`: whether the image belongs to the dominant group.
    """

    centre: NDArray[np.float32]
    count: NDArray[np.int64]
    fit: NDArray[np.float32]
    dominant: NDArray[np.bool_]


def dominant_centres(
    rows: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    labels: NDArray[np.int64],
    readable: NDArray[np.bool_],
    classes: int,
    same: float,
) -> Centres:
    """Find the dominant group of each identity.

    The image that most others resemble (cosine at or above `same`) is the heart; the group is then refined: its mean,
    the images that fit the mean, their mean, and so on. Each image is compared with the mean of the others.

    Args:
        rows: embeddings of the images with these numbers, `float32 [n, d]` of length 1.
        labels: `int64 [N]`.
        readable: `bool [N]`; others belong to no group.
        classes: C.
        same: the cosine at or above which an image and a centre are taken for the same person.
    """
    order = np.argsort(labels, kind="stable")
    order = order[readable[order]]
    starts = np.searchsorted(labels[order], np.arange(classes + 1))
    width = rows(order[:1]).shape[1]
    centre = np.zeros((classes, width), np.float32)
    count = np.zeros(classes, np.int64)
    fit = np.full(len(labels), np.nan, np.float32)
    dominant = np.zeros(len(labels), bool)
    for label in range(classes):
        members = order[starts[label] : starts[label + 1]]
        if len(members):
            group, scores, mean = dominant_group(rows(members), same)
            centre[label], count[label] = mean, int(group.sum())
            fit[members], dominant[members] = scores, group
    return Centres(centre, count, fit, dominant)


def dominant_group(
    embeddings: NDArray[np.float32], same: float
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
    """Group `bool [n]`, fit `float32 [n]` and centre `float32 [d]` of one identity's embeddings `[n, d]`; see `Centres`."""
    total = len(embeddings)
    if total == 1:
        return np.ones(1, bool), np.full(1, np.nan, np.float32), embeddings[0]
    tried = embeddings[np.linspace(0, total - 1, min(total, SEEDS)).astype(int)]
    similar = embeddings @ tried.T  # [n, seeds]
    votes = (similar >= same).sum(axis=0) + similar.mean(axis=0) * 1e-3
    group = similar[:, int(votes.argmax())] >= same
    scores = similar[:, int(votes.argmax())]
    for _ in range(ROUNDS):
        if not group.any():
            group = scores >= scores.max()
        scores = fit_to_group(embeddings, group)
        refined = scores >= same
        if not refined.any() or (refined == group).all():
            break
        group = refined
    mean = embeddings[group].sum(axis=0)
    return group, scores, mean / max(float(np.linalg.norm(mean)), 1e-12)


def fit_to_group(embeddings: NDArray[np.float32], group: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Cosine of each embedding `[n, d]` with the mean of the group, itself left out, `float32 [n]`."""
    total = embeddings[group].sum(axis=0)
    others = np.where(group[:, None], total - embeddings, total)
    lengths = np.linalg.norm(others, axis=1)
    products = np.einsum("nd,nd->n", embeddings, others)
    # The only member of a group has nobody to be compared with: it is its own heart.
    return np.where(lengths > 1e-6, products / np.maximum(lengths, 1e-6), 1.0).astype(np.float32)
