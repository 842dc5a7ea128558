"""The numbers of a data set that a person looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frtrain.data.encoded import CROP_SIZE
from frtrain.data.inspection.groups import FEATURELESS, Duplicates, find_duplicates
from frtrain.data.inspection.measures import FORMATS
from frtrain.data.inspection.scan import Scan
from frtrain.data.source import Source

LARGEST = 5
"""Identities with the most images that are named."""

WORST = 8
"""Images at each end of a measure that are named."""

NARROW_BARS = 13
"""Edges up to which a histogram has a bar for each number of images."""

PERCENTS = {"min": 0, "p1": 1, "p25": 25, "median": 50, "p75": 75, "p99": 99, "max": 100}

EXTREMES = (
    ("darkest", "brightness", 1),
    ("brightest", "brightness", -1),
    ("blurriest", "sharpness", 1),
    ("flattest", "contrast", 1),
)
"""Name, measure, and whether its lowest (1) or highest (-1) values are meant."""


@dataclass(frozen=True)
class Spread:
    """How a number is distributed.

    Attributes:
        percentiles: by the names of `PERCENTS`, linear between neighbours.
        mean: arithmetic.
        total: the sum.
    """

    percentiles: dict[str, float]
    mean: float
    total: float

    @classmethod
    def of(cls, values: ArrayLike) -> Spread:
        """Of one value or more."""
        wide = np.asarray(values, dtype=np.float64)
        found = np.percentile(wide, list(PERCENTS.values()))
        return cls(dict(zip(PERCENTS, found.tolist(), strict=True)), float(wide.mean()), float(wide.sum()))


@dataclass(frozen=True)
class Bar:
    """Identities with `low` to `high` images."""

    low: int
    high: int
    identities: int

    @property
    def label(self) -> str:
        """`5`, or `5-9`."""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True)
class Identities:
    """How images are distributed over identities, by the labels of the whole source.

    Attributes:
        spread: images per identity.
        empty: identities without an image.
        single: identities with one.
        largest: names and numbers of images of those with the most.
        histogram: without gaps from the fewest to the most images.
    """

    spread: Spread
    empty: int
    single: int
    largest: tuple[tuple[str, int], ...]
    histogram: tuple[Bar, ...]


@dataclass(frozen=True)
class Fault:
    """An image that training would refuse: its position in the source, and why."""

    kind: Literal["unreadable", "wrong size"]
    index: int
    reason: str


@dataclass(frozen=True)
class Extreme:
    """The images at one end of a measure, the outermost first: positions in the source, and values."""

    name: str
    measure: str
    images: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Summary:
    """What is in a data set.

    Attributes:
        images, identities, fingerprint: of the whole source.
        looked_at: images that were read, or tried to.
        readable: of these, those that could be decoded.
        per_identity: see there.
        faults: unreadable images and those that are no aligned crops, in order.
        formats: name -> images, by the first bytes; empty where images are not stored encoded.
        sizes: (width, height) -> images, the most frequent first.
        bytes: of the encoded images; None where there are none.
        measures: brightness, contrast and sharpness of readable images; empty where there are none.
        extremes: see there.
        grey: readable images without colour.
        featureless: readable images with a contrast below `FEATURELESS`.
        duplicates: see there.
    """

    images: int
    identities: int
    fingerprint: str
    looked_at: int
    readable: int
    per_identity: Identities
    faults: tuple[Fault, ...]
    formats: dict[str, int]
    sizes: dict[tuple[int, int], int]
    bytes: Spread | None
    measures: dict[str, Spread]
    extremes: tuple[Extreme, ...]
    grey: int
    featureless: int
    duplicates: Duplicates


def summarize(source: Source, scan: Scan, distance: int | None) -> Summary:
    """Everything that is told of a data set.

    Args:
        source: its labels and names are read, no images.
        scan: what was measured.
        distance: as `find_duplicates`.
    """
    read = scan.readable()
    good = read.measures
    stored = scan.measures["bytes"][scan.measures["bytes"] > 0]
    kinds = np.bincount(scan.measures["format"][scan.measures["bytes"] > 0], minlength=len(FORMATS))
    return Summary(
        images=len(source),
        identities=len(source.classes),
        fingerprint=source.fingerprint,
        looked_at=len(scan),
        readable=len(good),
        per_identity=_identities(source),
        faults=_faults(scan),
        formats={FORMATS[kind]: int(kinds[kind]) for kind in np.argsort(-kinds, kind="stable") if kinds[kind]},
        sizes=_sizes(good),
        bytes=Spread.of(stored) if len(stored) else None,
        measures={name: Spread.of(good[name]) for name in ("brightness", "contrast", "sharpness")} if len(good) else {},
        extremes=tuple(
            Extreme(name, measure, _outermost(good[measure], read.indices, sign)) for name, measure, sign in EXTREMES
        ),
        grey=int(good["grey"].sum()),
        featureless=int((good["contrast"] < FEATURELESS).sum()),
        duplicates=find_duplicates(scan, source.labels, distance),
    )


def _identities(source: Source) -> Identities:
    counts = np.bincount(source.labels, minlength=len(source.classes))
    largest = np.argsort(-counts, kind="stable")[:LARGEST]
    return Identities(
        spread=Spread.of(counts),
        empty=int((counts == 0).sum()),
        single=int((counts == 1).sum()),
        largest=tuple((source.classes[int(label)], int(counts[label])) for label in largest),
        histogram=_histogram(counts),
    )


def _histogram(counts: NDArray[np.int64]) -> tuple[Bar, ...]:
    """A bar for each number of images where there are few, else bars that widen: 1, 2, 3-4, 5-9, 10-19, 20-49 ..."""
    low, high = int(counts.min()), int(counts.max())
    starts = np.arange(low, high + 2)
    if len(starts) > NARROW_BARS:
        starts = np.array([0, 1, 2, 3, *(step * 10**power for power in range(18) for step in (5, 10, 20))])
        first, last = np.searchsorted(starts, [low, high], side="right")
        starts = starts[first - 1 : last + 1]
    heights, _ = np.histogram(counts, starts)
    heights[-1] -= int((counts == starts[-1]).sum())  # NumPy counts the last edge in; no identity has so many
    edges = zip(starts[:-1].tolist(), starts[1:].tolist(), heights.tolist(), strict=True)
    return tuple(Bar(start, end - 1, height) for start, end, height in edges)


def _faults(scan: Scan) -> tuple[Fault, ...]:
    width, height = scan.measures["width"], scan.measures["height"]
    foreign = scan.measures["readable"] & ((width != CROP_SIZE) | (height != CROP_SIZE))
    faults = [Fault("unreadable", index, reason) for index, reason in scan.reasons.items()]
    faults += [
        Fault("wrong size", index, f"is {wide}x{high}, not an aligned {CROP_SIZE}x{CROP_SIZE} crop")
        for index, wide, high in zip(
            scan.indices[foreign].tolist(), width[foreign].tolist(), height[foreign].tolist(), strict=True
        )
    ]
    return tuple(sorted(faults, key=lambda fault: fault.index))


def _sizes(good: NDArray[np.void]) -> dict[tuple[int, int], int]:
    pairs, counts = np.unique(np.stack([good["width"], good["height"]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {(int(pairs[at, 0]), int(pairs[at, 1])): int(counts[at]) for at in order}


def _outermost(values: NDArray[np.float32], indices: NDArray[np.int64], sign: int) -> tuple[tuple[int, float], ...]:
    order = np.argsort(sign * values, kind="stable")[:WORST]
    return tuple((int(indices[at]), float(values[at])) for at in order)
