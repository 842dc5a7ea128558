"""Some identities of a source as a source of their own, and the split that holds identities out of training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frtrain.data.source import Source
from frtrain.errors import ConfigError, DataError


class IdentitySubset:
    """The images of the given identities, labelled anew from 0.

    Args:
        source: where images come from.
        identities: labels of `source` to keep, in the order of their new labels.
    """

    def __init__(self, source: Source, identities: NDArray[np.int64]):
        new_label = np.full(len(source.classes), -1, dtype=np.int64)
        new_label[identities] = np.arange(len(identities))
        self.source = source
        self.indices = np.flatnonzero(new_label[source.labels] >= 0)
        self.labels = new_label[source.labels[self.indices]]
        self.classes: Sequence[str] = [source.classes[label] for label in identities]
        digest = hashlib.sha256(np.ascontiguousarray(identities).tobytes()).hexdigest()[:12]
        self.fingerprint = f"{source.fingerprint}:subset {len(identities)} {digest}"

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> NDArray[np.uint8]:
        """RGB crop of the underlying source."""
        return self.source.image(int(self.indices[index]))

    def describe(self, index: int) -> str:
        """Where the underlying image comes from."""
        return self.source.describe(int(self.indices[index]))


def check_source(source: Source) -> None:
    """Check what training relies on, before the first step.

    Raises:
        DataError: no images, labels that do not fit the images or exceed the classes.
    """
    if len(source) == 0:
        raise DataError("the data set has no images")
    if len(source.labels) != len(source):
        raise DataError(f"the data set has {len(source)} images but {len(source.labels)} labels")
    low, high = int(source.labels.min()), int(source.labels.max())
    if low < 0 or high >= len(source.classes):
        first = int(np.flatnonzero((source.labels < 0) | (source.labels >= len(source.classes)))[0])
        raise DataError(
            f"{source.describe(first)}: label {int(source.labels[first])} is outside the {len(source.classes)} classes "
            f"(labels run from {low} to {high}; expected 0 to {len(source.classes) - 1})"
        )


def hold_out_identities(source: Source, fraction: float, seed: int) -> tuple[Source, Source | None]:
    """Split identities into training and validation.

    Only identities with two or more images are held out, since one image makes no genuine pair.

    Args:
        source: all images.
        fraction: share of all identities to hold out; 0 holds none out.
        seed: of the choice.

    Returns:
        The training source and the held-out source (None when `fraction` is 0).

    Raises:
        ConfigError: the fraction leaves too few identities on either side.
    """
    if fraction == 0:
        return source, None
    total = len(source.classes)
    images = np.bincount(source.labels, minlength=total)
    candidates = np.flatnonzero(images >= 2)
    wanted = max(2, round(total * fraction))
    if len(candidates) < 2:
        raise ConfigError(
            f"validation.fraction={fraction}: {len(candidates)} of {total} identities have two images or more, but "
            "verification needs genuine pairs of at least two; set validation.fraction=0 to train without validation"
        )
    held = np.sort(np.random.default_rng([seed, 0x5EED]).permutation(candidates)[:wanted])
    kept = np.setdiff1d(np.arange(total), held)
    if len(kept) < 2:
        raise ConfigError(
            f"validation.fraction={fraction}: holding {len(held)} of {total} identities out leaves {len(kept)} to train "
            "on; use a smaller fraction, or 0 for no validation"
        )
    return IdentitySubset(source, kept), IdentitySubset(source, held)
