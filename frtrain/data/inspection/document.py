"""The summary as plain values for JSON: nothing is left out, images by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from frtrain.data.encoded import image_name
from frtrain.data.inspection.summary import Spread, Summary
from frtrain.data.source import Source

MOST_SIZES = 1000
"""Different sizes that are listed."""


def document(source: Source, summary: Summary, known: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    """Plain values.

    Args:
        source: for the names of images and identities.
        summary: of it.
        known: sentences on how it compares with what is published.
        settings: what the call was asked for, e.g. `{"data": {...}, "read": "all", "near": 6}`.
    """
    duplicates = summary.duplicates
    per_identity = summary.per_identity
    names = [image_name(source, fault.index) for fault in summary.faults]
    return {
        "settings": settings,
        "fingerprint": summary.fingerprint,
        "images": summary.images,
        "identities": summary.identities,
        "known": list(known),
        "images_per_identity": {
            **_spread(per_identity.spread),
            "without_images": per_identity.empty,
            "with_one_image": per_identity.single,
            "largest": [{"identity": name, "images": images} for name, images in per_identity.largest],
            "histogram": [
                {"low": bar.low, "high": bar.high, "identities": bar.identities} for bar in per_identity.histogram
            ],
        },
        "looked_at": summary.looked_at,
        "readable": summary.readable,
        "unusable": [
            {
                "name": name,
                "kind": fault.kind,
                "identity": source.classes[int(source.labels[fault.index])],
                "reason": fault.reason,
            }
            for name, fault in zip(names, summary.faults, strict=True)
        ],
        "formats": summary.formats,
        "sizes": [
            {"width": width, "height": height, "images": images}
            for (width, height), images in list(summary.sizes.items())[:MOST_SIZES]
        ],
        "different_sizes": len(summary.sizes),
        "bytes": None if summary.bytes is None else {**_spread(summary.bytes), "total": int(summary.bytes.total)},
        **{name: _spread(spread) for name, spread in summary.measures.items()},
        "grey": summary.grey,
        "featureless": summary.featureless,
        "extremes": {
            extreme.name: [
                {"name": image_name(source, index), extreme.measure: value} for index, value in extreme.images
            ]
            for extreme in summary.extremes
        },
        "duplicates": {
            "levels": {
                level.kind: {
                    "groups": level.groups,
                    "images": level.images,
                    "surplus": level.surplus,
                    "within_one_identity": level.within,
                    "between_identities": level.between,
                }
                for level in duplicates.levels
            },
            "groups": [
                {
                    "kind": group.kind,
                    "identities": group.identities,
                    "images": [image_name(source, index) for index in group.images],
                }
                for group in duplicates.groups
            ],
        },
    }


def _spread(spread: Spread) -> dict[str, float]:
    return {**spread.percentiles, "mean": spread.mean}
