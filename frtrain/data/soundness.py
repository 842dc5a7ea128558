"""Whether a source keeps the contract that training relies on."""

from __future__ import annotations

import numpy as np

from frtrain.data.source import Source
from frtrain.errors import DataError


def check_source(source: Source) -> None:
    """Check what training relies on, before the first step.

    Raises:
        DataError: no images, fewer than two identities, labels that do not fit the images or exceed the classes.
    """
    check_labels(source)
    if len(source.classes) < 2:
        raise DataError(f"the data set has one identity ({source.classes[0]}), but two are needed at least")


def check_labels(source: Source) -> None:
    """Check that every image has a label, and every label a class.

    Raises:
        DataError: otherwise, or there are no images.
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
