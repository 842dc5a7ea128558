"""Embeddings and pairs to a `Verification`. What the validation during training calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frtrain.data.source import Source
from frtrain.evaluation.embed import Embed, Progress, embed_images
from frtrain.evaluation.metrics import Verification, measure
from frtrain.evaluation.pairs import IndexPairs
from frtrain.evaluation.roc import FAR_TARGETS

PAIRS_AT_ONCE = 16_384


def pair_scores(embeddings: NDArray[np.float32], pairs: IndexPairs) -> NDArray[np.float64]:
    """Cosine similarity of each pair, `float64 [P]`, from embeddings `[N, d]` of length 1."""
    scores = np.empty(len(pairs), dtype=np.float64)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        left, right = embeddings[pairs.left[part]], embeddings[pairs.right[part]]
        scores[part] = np.sum(left.astype(np.float64) * right, axis=1)
    return scores


def verify(
    embeddings: NDArray[np.float32],
    pairs: IndexPairs,
    far_targets: Sequence[float] = FAR_TARGETS,
    resamples: int = 0,
    seed: int = 0,
) -> Verification:
    """Verification of `pairs` by cosine similarity.

    Args:
        embeddings: `float32 [N, d]`, each of length 1 (or zero), as `embed_images` makes them.
        pairs: rows of `embeddings`, with the folds for cross-validation.
        far_targets, resamples, seed: as for `measure`.

    Raises:
        DataError: see `measure`.
    """
    return measure(pair_scores(embeddings, pairs), pairs.genuine, pairs.fold, far_targets, resamples, seed)


def verify_source(
    embed: Embed,
    source: Source,
    pairs: IndexPairs,
    batch_size: int,
    flip: bool,
    progress: Progress | None = None,
    resamples: int = 0,
    seed: int = 0,
) -> tuple[Verification, NDArray[np.float64]]:
    """Verification of pairs of a source's images; each image that a pair names is embedded once.

    Args:
        embed: the network in evaluation mode.
        source: the images.
        pairs: positions in `source`, for example of `pairs_from_labels`.
        batch_size, flip, progress: as for `embed_images`.
        resamples, seed: as for `measure`.

    Returns:
        The result, and the score of each pair `[P]`.

    Raises:
        ImageError: an image cannot be decoded.
        DataError: an embedding is not finite, or as `measure`.
    """
    used, position = np.unique(np.concatenate([pairs.left, pairs.right]), return_inverse=True)
    embeddings = embed_images(
        embed,
        lambda index: source.image(int(used[index])),
        len(used),
        batch_size,
        flip,
        progress,
        lambda index: source.describe(int(used[index])),
    )
    rows = IndexPairs(position[: len(pairs)], position[len(pairs) :], pairs.genuine, pairs.fold)
    scores = pair_scores(embeddings, rows)
    return measure(scores, pairs.genuine, pairs.fold, FAR_TARGETS, resamples, seed), scores
