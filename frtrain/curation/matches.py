"""Which best matches are real: the nearest identities, and how surprising their likeness is."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

ROWS, COLUMNS = 1024, 16_384
LEAST_GENUINE = 20
ROUNDS = 100
_SIGMA_OF_DEVIATION = 1.4826  # a normal law's standard deviation over its median absolute deviation


def nearest_centres(
    queries: NDArray[np.float32],
    centres: NDArray[np.float32],
    count: int,
    device: torch.device,
    own: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `count` centres of the highest cosine with each query, in blocks.

    Args:
        queries: `float32 [Q, d]` of length 1.
        centres: `float32 [C, d]` of length 1 (or zero: never chosen before others).
        count: how many; fewer where there are fewer centres.
        device: where the products are computed.
        own: `int64 [Q]`: a centre that each query may not be matched with.

    The centres have to fit into the device's memory; queries and products come and go in blocks.

    Returns:
        Numbers `int64 [Q, k]` and cosines `float32 [Q, k]`, best first.
    """
    available = len(centres) - (own is not None)
    count = min(count, available)
    if count < 1 or not len(queries):
        return np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    numbers, cosines = [], []
    on_device = torch.from_numpy(np.ascontiguousarray(centres)).to(device)
    for start in range(0, len(queries), ROWS):
        rows = torch.from_numpy(np.ascontiguousarray(queries[start : start + ROWS])).to(device)
        excluded = None if own is None else torch.from_numpy(own[start : start + ROWS]).to(device)
        best = torch.full((len(rows), count), -2.0, device=device)
        place = torch.zeros((len(rows), count), dtype=torch.int64, device=device)
        for first in range(0, len(centres), COLUMNS):
            block = on_device[first : first + COLUMNS]
            scores = rows @ block.T
            if excluded is not None:
                inside = (excluded >= first) & (excluded < first + len(block))
                where = torch.nonzero(inside).flatten()
                scores[where, excluded[where] - first] = -2.0
            best_here, columns = scores.topk(min(count, len(block)), dim=1)
            best, chosen = torch.cat([best, best_here], 1).topk(count, dim=1)
            place = torch.cat([place, columns + first], 1).gather(1, chosen)
        numbers.append(place.cpu().numpy())
        cosines.append(best.cpu().numpy())
    return np.concatenate(numbers), np.concatenate(cosines)


def doubts_of_best(cosines: NDArray[np.float32], genuine: NDArray[np.floating]) -> NDArray[np.float64]:
    """How probable it is that a best match is a stranger after all: `float64 [Q]`.

    The local false discovery rate of two groups (Efron 2004), with the strangers' share found by expectation
    maximisation. Neither a threshold nor that share has to be known:
        strangers' best: a Gumbel law, as the largest of many is (Fisher and Tippett 1928). The second best matches, which
            are strangers whether or not the best ones are, tell its spread, and their median with the gap to the third
            best its median. Medians, because people with doubles move them little.
        the same person: normal below its median, from cosines of known pairs; a cosine above it speaks for it no less.

    Args:
        cosines: `float32 [Q, 3]`, the three best matches of each query, best first.
        genuine: cosines of the same person's centres, any number.
    """
    best, second, third = cosines.astype(np.float64).T
    middle = float(np.median(second))
    spread = max(_SIGMA_OF_DEVIATION * float(np.median(np.abs(second - middle))), 1e-3)
    scale = spread * math.sqrt(6) / math.pi
    location = middle + 2 * float(np.median(second - third)) + scale * math.log(math.log(2))
    z = (best - location) / scale
    # Below its mode a stranger's density counts as that at the mode: a poor match must not look like evidence.
    strangers = np.where(z > 0, np.exp(-z - np.exp(-np.maximum(z, 0))), math.exp(-1)) / scale
    if len(genuine) >= LEAST_GENUINE:
        centre = float(np.median(genuine))
        width = max(_SIGMA_OF_DEVIATION * float(np.median(np.abs(genuine - centre))), 1e-2)
        below = np.minimum((best - centre) / width, 0.0)
        same = np.exp(-(below**2) / 2) / (width * math.sqrt(2 * math.pi))
    else:
        start = location + 4 * spread
        same = np.where(best > start, 1 / max(1 - start, 0.1), 0.0)
    share = 0.1
    for _ in range(ROUNDS):
        doubts = (1 - share) * strangers / np.maximum((1 - share) * strangers + share * same, 1e-300)
        share = min(max(float(1 - doubts.mean()), 1 / (10 * len(best))), 0.9)
    return np.asarray(doubts)


def believed(doubts: NDArray[np.float64], false_share: float) -> NDArray[np.bool_]:
    """The most findings, least doubtful first, of which at most `false_share` are expected to be wrong.

    None of them alone is more probably wrong than right.

    Args:
        doubts: `float64 [Q]`, the probability of each to be wrong.
        false_share: in (0, 1).
    """
    order = np.argsort(doubts, kind="stable")
    expected = np.cumsum(doubts[order]) / np.arange(1, len(doubts) + 1)
    chosen = np.zeros(len(doubts), bool)
    chosen[order[: int(np.searchsorted(expected, false_share, side="right"))]] = True
    return chosen & (doubts < 0.5)
