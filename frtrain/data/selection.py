"""Some of a source's images as a source of their own: what the section `subset` of a configuration asks for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain.config import SubsetConfig
from frtrain.data.encoded import EncodedSource, image_name
from frtrain.data.exclusion import Exclusion, read_exclusions
from frtrain.data.manifest import unescaped
from frtrain.data.soundness import check_labels
from frtrain.data.source import Source
from frtrain.errors import DataError
from frtrain.files import read_text_file

log = logging.getLogger(__name__)


class Selection:
    """Images of a source, labelled anew.

    Made by `selection`, which keeps the stored files of an `EncodedSource` within reach.

    Attributes:
        source: where images come from.
        indices: `int64 [N]`, positions in `source`.
        classes, labels, fingerprint: as `Source`.
    """

    def __init__(
        self,
        source: Source,
        indices: NDArray[np.int64],
        labels: NDArray[np.int64],
        classes: Sequence[str],
        fingerprint: str,
    ):
        self.source = source
        self.indices = indices
        self.labels = labels
        self.classes = classes
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB crop of the underlying source."""
        return self.source.image(int(self.indices[index]))

    def describe(self, index: int) -> str:
        """Where the underlying image comes from."""
        return self.source.describe(int(self.indices[index]))


class EncodedSelection(Selection, EncodedSource):
    """A selection of an `EncodedSource`, one itself."""

    source: EncodedSource

    def encoded(self, index: int) -> bytes:
        """The stored file of the underlying source."""
        return self.source.encoded(int(self.indices[index]))

    def name(self, index: int) -> str:
        """The name in the underlying source."""
        return self.source.name(int(self.indices[index]))


def selection(source: Source, indices: NDArray[np.int64], identities: NDArray[np.int64]) -> Selection:
    """Some images of some identities.

    Args:
        source: where images come from.
        indices: `int64 [N]`, positions of the images, each of one of the identities.
        identities: labels of `source` to keep, in the order of their new labels.
    """
    new_label = np.full(len(source.classes), -1, dtype=np.int64)
    new_label[identities] = np.arange(len(identities))
    labels = new_label[source.labels[indices]]
    digest = hashlib.sha256(np.ascontiguousarray(identities, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(indices, dtype=np.int64).tobytes())
    fingerprint = (
        f"{source.fingerprint}:subset {len(identities)} identities {len(indices)} images {digest.hexdigest()[:12]}"
    )
    classes = [source.classes[label] for label in identities.tolist()]
    base = source
    if isinstance(source, Selection):  # one step to an image, not one for each selection
        base, indices = source.source, source.indices[indices]
    kind = EncodedSelection if isinstance(base, EncodedSource) else Selection
    return kind(base, indices, labels, classes, fingerprint)


def select(source: Source, config: SubsetConfig) -> Source:
    """What the section `subset` asks for; the source itself when it asks for nothing, or for all there is.

    Identities and images that a list names are chosen first (`include`, `exclude`), then identities with too few of the
    remaining images are left out (`min_images`), then images above the limit (`max_images`), then identities (`first`).

    Raises:
        DataError: a list cannot be read or names an identity that is not there, no identity is left, or the labels of
            `source` do not fit its images.
    """
    check_labels(source)
    kept = np.ones(len(source), dtype=bool)
    identities = len(source.classes)
    left: list[str] = []

    def note(key: str) -> None:
        left.append(f"{len(np.unique(source.labels[kept])):,} after subset.{key}")

    if config.include is not None:
        kept &= _labels_in(_listed(config.include, source), identities)[source.labels]
        note(f"include={config.include}")
    for path in config.exclude:
        kept &= ~_excluded(path, source)
        note(f"exclude={path}")
    if config.min_images > 1:
        kept &= (np.bincount(source.labels[kept], minlength=identities) >= config.min_images)[source.labels]
        note(f"min_images={config.min_images}")
    if config.max_images is not None:
        kept[np.flatnonzero(kept)[_position_in_identity(source.labels[kept]) >= config.max_images]] = False
    if config.first is not None:
        kept &= _labels_in(np.unique(source.labels[kept])[: config.first], identities)[source.labels]
    if not kept.any():
        raise DataError(f"subset: no identity is left ({identities:,} in the data set, {', '.join(left)})")
    if kept.all():
        return source
    indices = np.flatnonzero(kept)
    return selection(source, indices, np.unique(source.labels[indices]))


def _labels_in(labels: NDArray[np.int64], classes: int) -> NDArray[np.bool_]:
    """`bool [classes]`: whether a class is one of `labels`."""
    chosen = np.zeros(classes, dtype=bool)
    chosen[labels] = True
    return chosen


def _position_in_identity(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many images of the same identity come before each, `int64 [N]`."""
    order = np.argsort(labels, kind="stable")
    grouped = labels[order]
    starts = np.flatnonzero(np.append(True, grouped[1:] != grouped[:-1])) if len(labels) else np.zeros(0, np.int64)
    position = np.empty(len(labels), dtype=np.int64)
    position[order] = np.arange(len(labels)) - np.repeat(starts, np.diff(np.append(starts, len(labels))))
    return position


def _listed(listing: str, source: Source) -> NDArray[np.int64]:
    """The labels of a list file: one name per line; LFW's own `name<TAB>count` lines and count headers work."""
    try:
        lines = read_text_file(Path(listing).expanduser()).split("\n")
    except OSError as error:
        raise DataError(f"subset.include={listing}: cannot be read ({error.strerror})") from None
    lines = [line.rstrip("\r") for line in lines if line.strip()]
    label_of = {name: label for label, name in enumerate(source.classes)}
    of_lfw = any("\t" in line for line in lines)
    all_numbers = all(line.strip().isdigit() for line in lines)
    labels, missing = [], []
    for number, line in enumerate(lines):
        if of_lfw and line.strip().isdigit():  # the header of a part, whether or not an identity is called so
            continue
        name = line.split("\t")[0]
        label = next((label_of[text] for text in _readings(name) if text in label_of), None)
        if label is not None:
            labels.append(label)
        elif number > 0 or all_numbers or not line.strip().isdigit():  # else a header
            missing.append(name.strip())
    if missing:
        raise DataError(
            f"subset.include={listing}: {len(missing):,} of {len(labels) + len(missing):,} identities are not in the data "
            f"set, e.g. {', '.join(missing[:3])}"
        )
    return np.array(labels, dtype=np.int64)


def _readings(name: str) -> tuple[str, ...]:
    """What a name in a hand-made list may stand for."""
    return name, name.strip(), unescaped(name), unescaped(name.strip())


def _excluded(path: str, source: Source) -> NDArray[np.bool_]:
    """`bool [N]`: the images that an exclusion list names, one by one or by their identity."""
    try:
        exclusions = read_exclusions(Path(path).expanduser())
    except DataError as error:
        raise DataError(f"subset.exclude: {error}") from None
    label_of = {name: label for label, name in enumerate(source.classes)}
    found = np.zeros(len(source), dtype=bool)
    identities = {item.name for item in exclusions if item.kind != "image" and item.name in label_of}
    images = {item.name for item in exclusions if _is_of_image(item, label_of)}
    if identities:
        chosen = np.array([label_of[name] for name in identities], dtype=np.int64)
        found |= _labels_in(chosen, len(source.classes))[source.labels]
    positions = _positions(images, source, label_of) if images else {}
    found[list(positions.values())] = True
    lost = [
        item.name for item in exclusions if item.name not in (positions if _is_of_image(item, label_of) else label_of)
    ]
    if lost:
        log.warning(
            "subset.exclude=%s: %d of %d names are not in the data set, e.g. %s",
            path,
            len(lost),
            len(exclusions),
            lost[0],
        )
    return found


def _is_of_image(item: Exclusion, label_of: dict[str, int]) -> bool:
    return item.kind == "image" or (item.kind is None and item.name not in label_of)


def _positions(names: set[str], source: Source, label_of: dict[str, int]) -> dict[str, int]:
    """Where the named images are; those that are nowhere are absent."""
    labels = {label_of[identity] for identity in map(_identity_part, names) if identity in label_of}
    likely = np.flatnonzero(_labels_in(np.array(sorted(labels), dtype=np.int64), len(source.classes))[source.labels])

    def among(indices: Iterable[int], wanted: set[str]) -> dict[str, int]:
        return {name: index for index in indices if (name := image_name(source, index)) in wanted}

    positions = among(likely.tolist(), names)
    if len(positions) < len(names):  # images are not always named after their identity
        positions |= among(range(len(source)), names - positions.keys())
    return positions


def _identity_part(name: str) -> str:
    return name.partition("/")[0]
