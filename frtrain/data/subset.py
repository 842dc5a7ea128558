"""The split that holds identities out of training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frtrain.data.selection import Selection, selection
from frtrain.data.source import Source
from frtrain.errors import ConfigError


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
    return identity_subset(source, kept), identity_subset(source, held)


def identity_subset(source: Source, identities: NDArray[np.int64]) -> Selection:
    """All images of the given identities, labelled anew from 0 in the order of `identities` (labels of `source`)."""
    chosen = np.zeros(len(source.classes), dtype=bool)
    chosen[identities] = True
    return selection(source, np.flatnonzero(chosen[source.labels]), identities)
