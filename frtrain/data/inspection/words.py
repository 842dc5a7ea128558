"""The words that text and page have in common."""

from __future__ import annotations

from frtrain.data.encoded import CROP_SIZE
from frtrain.data.inspection.groups import Kind
from frtrain.data.inspection.summary import Summary
from frtrain.data.manifest import escaped

KINDS: dict[Kind, str] = {"file": "same file", "pixels": "same pixels", "near": "nearly the same"}

SIZES = 8
"""Different sizes that are told."""

LONGEST_NAME = 200


def facts(summary: Summary) -> list[tuple[str, str]]:
    """Name and value of what is told in a line each."""
    per_identity = summary.per_identity
    spread = per_identity.spread.percentiles
    quartiles = " ".join(number(spread[name]) for name in ("p25", "median", "p75"))
    told = [
        ("images", f"{summary.images:,}"),
        ("identities", f"{summary.identities:,}"),
        (
            "images per identity",
            f"min {number(spread['min'])}, quartiles {quartiles}, max {number(spread['max'])}, "
            f"mean {per_identity.spread.mean:.3g}",
        ),
        ("identities with one image", f"{per_identity.single:,}"),
    ]
    if per_identity.empty:
        told.append(("identities without image", f"{per_identity.empty:,}"))
    told.append(
        ("most images", ", ".join(f"{shortened(name, 60)} ({images:,})" for name, images in per_identity.largest[:3]))
    )
    told.append(("fingerprint", shortened(summary.fingerprint)))
    if 0 < summary.looked_at < summary.images:
        told.append(("looked at", f"{summary.looked_at:,} images, evenly spread; all below is about these"))
    if summary.bytes is not None:
        size = summary.bytes.percentiles
        formats = ", ".join(f"{name} {count:,}" for name, count in summary.formats.items())
        told.append(("stored as", formats))
        told.append(
            (
                "encoded size",
                f"min {_bytes(size['min'])}, median {_bytes(size['median'])}, max {_bytes(size['max'])}, "
                f"all {_bytes(summary.bytes.total)}",
            )
        )
    if summary.readable:
        told.append(("width x height", ", ".join(f"{size} ({images:,})" for size, images in size_rows(summary))))
        told.append(("grey images", f"{summary.grey:,}"))
        told.append(("featureless images", f"{summary.featureless:,}"))
    return told


def size_rows(summary: Summary) -> list[tuple[str, int]]:
    """Sizes and how many images have each, the most frequent first; the rest in one row."""
    rows = [(f"{width}x{height}", images) for (width, height), images in summary.sizes.items()]
    rest = rows[SIZES:]
    return [*rows[:SIZES], *([(f"{len(rest):,} other sizes", sum(images for _, images in rest))] if rest else [])]


def problem_words(summary: Summary) -> str:
    """How many images training would refuse, and why."""
    unreadable = summary.looked_at - summary.readable
    foreign = len(summary.faults) - unreadable
    parts = [f"{unreadable:,} unreadable"] if unreadable else []
    parts += [f"{foreign:,} of another size than {CROP_SIZE}x{CROP_SIZE}"] if foreign else []
    return f"{summary.looked_at:,} images: {', '.join(parts)}. Training would stop at them."


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """A name that can be shown: no control characters, and the middle left out where it is longer than `most`."""
    shown = escaped(name)
    return shown if len(shown) <= most else f"{shown[: most // 2]}…{shown[len(shown) - most // 2 + 1 :]}"


def number(value: float) -> str:
    """To at most three or four digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _bytes(count: float) -> str:
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        del units[0]
    return f"{number(count)}\N{NO-BREAK SPACE}{units[0]}"
