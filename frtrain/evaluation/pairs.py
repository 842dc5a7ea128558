"""Lists of image pairs: from LFW's own files, or drawn from the labels of held-out identities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.errors import DataError
from frtrain.files import read_text_file

FOLDS = 10


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs by name, as a benchmark publishes them.

    Attributes:
        left, right: image names `Person/Person_0001`, without extension.
        genuine: `bool [P]`, whether both show one person.
        fold: `int64 [P]`, the cross-validation fold of each pair, from 0.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    genuine: NDArray[np.bool_]
    fold: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.left)

    def names(self) -> list[str]:
        """Every image once, sorted."""
        return sorted({*self.left, *self.right})

    def subset(self, keep: NDArray[np.bool_]) -> PairList:
        """The pairs where `keep [P]` is true."""
        kept = np.flatnonzero(keep).tolist()
        return PairList(
            tuple(self.left[i] for i in kept), tuple(self.right[i] for i in kept), self.genuine[keep], self.fold[keep]
        )

    def indexed(self) -> IndexPairs:
        """The same pairs as positions in `names()`."""
        position = {name: index for index, name in enumerate(self.names())}
        left = np.array([position[name] for name in self.left], dtype=np.int64)
        right = np.array([position[name] for name in self.right], dtype=np.int64)
        return IndexPairs(left, right, self.genuine, self.fold)


@dataclass(frozen=True, eq=False)
class IndexPairs:
    """Pairs of rows of an embedding matrix, or of images of a source.

    Attributes:
        left, right: `int64 [P]` positions.
        genuine: `bool [P]`.
        fold: `int64 [P]`, the cross-validation fold of each pair, from 0.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    genuine: NDArray[np.bool_]
    fold: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.left)


def read_lfw_pairs(path: str | Path) -> PairList:
    """Read a pair list in LFW's format, of either view.

    View 2 (`pairs.txt`) begins with `folds<TAB>n`, and each fold has n genuine lines `name a b` and then n impostor
    lines `name a other b`. View 1 (`pairsDevTrain.txt`, `pairsDevTest.txt`) begins with `n` and is one such block
    without folds; its genuine and its impostor pairs are then each cut into ten consecutive tenths, so that every
    fold is balanced and, the file being sorted by name, a person's genuine pairs mostly stay together.

    Raises:
        DataError: the file cannot be read, or a line is malformed; names the file and the line.
    """
    path = Path(path)
    lines = _read_lines(path)
    views = _header(path, lines[0])
    folds, per_kind = views if len(views) == 2 else (1, views[0])
    expected = folds * 2 * per_kind
    if len(lines) - 1 != expected:
        raise DataError(f"{path}: line 1 announces {expected:,} pairs, but {len(lines) - 1:,} lines follow")
    genuine = np.tile(np.repeat([True, False], per_kind), folds)
    numbered = enumerate(zip(lines[1:], genuine, strict=True), start=2)
    left, right = zip(*(_parse(path, number, line, same) for number, (line, same) in numbered), strict=True)
    fold = np.repeat(np.arange(folds), 2 * per_kind) if len(views) == 2 else np.tile(tenths(per_kind), 2)
    return PairList(left, right, genuine, fold.astype(np.int64))


def is_view_2(path: str | Path) -> bool:
    """Whether the list brings its own folds (View 2).

    Raises:
        DataError: the file cannot be read or has no header.
    """
    return len(_header(Path(path), _read_lines(Path(path))[0])) == 2


def tenths(count: int, folds: int = FOLDS) -> NDArray[np.int64]:
    """Fold of each of `count` pairs: `folds` consecutive parts whose sizes differ by at most one."""
    return np.arange(count, dtype=np.int64) * min(folds, count) // max(count, 1)


def pairs_from_labels(labels: NDArray[np.integer], pairs: int, seed: int, folds: int = FOLDS) -> IndexPairs:
    """Draw balanced, distinct verification pairs from labelled images.

    Genuine pairs are spread evenly: no identity gives a second pair before every identity with two images gave one.
    An impostor pair is two identities drawn uniformly, and an image of each; identities with one image serve here
    only. The result depends on nothing but the arguments.

    Args:
        labels: `int [N]`, the identity of each image.
        pairs: how many to draw, half of each kind. Fewer come back, still balanced, if the images do not allow more.
        seed: of the draw.
        folds: cross-validation folds to cut each kind into.

    Raises:
        DataError: fewer than two genuine or impostor pairs are possible.
    """
    if pairs < 4:
        raise DataError(f"{pairs} verification pairs were asked for; at least 4 are needed (2 genuine, 2 impostor)")
    labels = np.asarray(labels)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.append(True, labels[order][1:] != labels[order][:-1])) if len(labels) else order
    counts = np.diff(np.append(starts, len(labels)))
    random = np.random.default_rng(seed)
    genuine = _draw_genuine(starts, counts, pairs // 2, random)
    impostor = _draw_impostor(starts, counts, max(len(genuine), 2), random) if len(counts) > 1 else genuine[:0]
    half = min(len(genuine), len(impostor))
    if half < 2:
        raise DataError(
            f"{len(labels):,} images of {len(counts):,} identities allow {len(genuine):,} genuine and "
            f"{len(impostor):,} impostor pairs; verification needs at least two of each, so hold out more identities "
            "and some with two images or more"
        )
    drawn = order[np.concatenate([genuine[:half], impostor[:half]])]
    return IndexPairs(
        left=drawn[:, 0].astype(np.int64),
        right=drawn[:, 1].astype(np.int64),
        genuine=np.repeat([True, False], half),
        fold=np.tile(tenths(half, folds), 2),
    )


def _draw_genuine(
    starts: NDArray[np.intp], counts: NDArray[np.intp], wanted: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Positions `[G, 2]` in label order, in order of identity."""
    possible = counts * (counts - 1) // 2
    shuffled = random.permutation(np.flatnonzero(possible))
    quota = _even_quota(possible[shuffled], wanted)
    drawn = []
    for identity, share in sorted(zip(shuffled.tolist(), quota.tolist(), strict=True)):
        codes = np.sort(random.choice(possible[identity], share, replace=False))
        # Pair (a, b), a < b, has code b (b - 1) / 2 + a.
        b = ((1 + np.sqrt(1 + 8 * codes.astype(np.float64))) / 2).astype(np.int64)
        drawn.append(starts[identity] + np.stack([codes - b * (b - 1) // 2, b], axis=1))
    return np.concatenate(drawn) if drawn else np.empty((0, 2), dtype=np.int64)


def _even_quota(capacity: NDArray[np.intp], wanted: int) -> NDArray[np.intp]:
    """Share `wanted` evenly, nobody above its capacity, the remainder to the first."""
    wanted = min(wanted, int(capacity.sum()))
    level = 0
    while np.minimum(capacity, level + 1).sum() <= wanted and level < capacity.max(initial=0):
        level += 1
    quota = np.minimum(capacity, level)
    more = np.flatnonzero(capacity > level)[: wanted - int(quota.sum())]
    quota[more] += 1
    return quota


def _draw_impostor(
    starts: NDArray[np.intp], counts: NDArray[np.intp], wanted: int, random: np.random.Generator, rounds: int = 64
) -> NDArray[np.int64]:
    """Positions `[I, 2]` in label order, distinct, sorted; fewer than `wanted` where there are hardly more."""
    found = np.empty((0, 2), dtype=np.int64)
    for _ in range(rounds):
        if len(found) >= wanted:
            break
        first = random.integers(0, len(counts), wanted)
        second = (first + random.integers(1, len(counts), wanted)) % len(counts)
        people = np.sort(np.stack([first, second], axis=1), axis=1)
        images = starts[people] + random.integers(0, counts[people])
        found = np.unique(np.concatenate([found, images]), axis=0)
    kept = np.sort(random.permutation(len(found))[:wanted])
    return found[kept]


def _read_lines(path: Path) -> list[str]:
    try:
        text = read_text_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(f"{path}: is not a text file")
    lines = text.rstrip().splitlines()
    if not lines:
        raise DataError(f"{path}: is empty; expected a pair list of LFW (pairs.txt, pairsDevTest.txt)")
    return lines


def _header(path: Path, line: str) -> list[int]:
    fields = line.split()
    if len(fields) not in (1, 2) or not all(_is_count(field) for field in fields):
        raise DataError(
            f"{path}, line 1: {line!r} is not the header of an LFW pair list; "
            "expected 'folds<TAB>pairs' (View 2) or 'pairs' (View 1)"
        )
    return [int(field) for field in fields]


def _parse(path: Path, number: int, line: str, same: bool) -> tuple[str, str]:
    fields = line.rstrip().split("\t") if "\t" in line else line.split()
    if same and len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    elif same or len(fields) != 4:
        kind, form = ("a genuine", "name<TAB>a<TAB>b") if same else ("an impostor", "name<TAB>a<TAB>other<TAB>b")
        raise DataError(f"{path}, line {number}: {line!r} is not {kind} pair; expected {form}")
    (left, a, right, b) = fields
    if not (_is_count(a) and _is_count(b)):
        raise DataError(f"{path}, line {number}: {line!r} has an image number that is not a positive integer")
    if (left == right) != same or (same and int(a) == int(b)):
        raise DataError(f"{path}, line {number}: {line!r} pairs {'an image with itself' if same else 'one person'}")
    return f"{left}/{left}_{int(a):04d}", f"{right}/{right}_{int(b):04d}"


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) > 0
