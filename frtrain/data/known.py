"""What is published of a data set that many use, and how the copy at hand compares with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from annotated_types import MinLen

from frtrain.data.source import Source
from frtrain.schema import PositiveInt, Section, parse

Text = Annotated[str, MinLen(1)]


class Variant(Section):
    """Another count that copies of a data set are known to have, and why.

    Attributes:
        identities, images: how many such a copy has; null: any number.
        reason: a sentence that explains it.
    """

    identities: PositiveInt | None
    images: PositiveInt | None
    reason: Text


class Known(Section):
    """A published data set.

    Attributes:
        title: its name in the literature.
        identities, images: how many there are in the version that is trained on.
        source: where the numbers come from, and who made it.
        licence: terms in a few words; null: none are stated.
        folder: the name that its folder usually has.
        variants: other counts that copies are known to have.
    """

    title: Text
    identities: PositiveInt
    images: PositiveInt
    source: Text
    licence: Text | None
    folder: Text
    variants: list[Variant]


def known_of(spec: Mapping[str, Any]) -> Known | None:
    """What a component's specification (`data` of a configuration) says is known of it.

    Raises:
        ConfigError: what it says is not of this form; names the key.
    """
    values = spec.get("known")
    return parse(Known, values, "data.known") if isinstance(values, Mapping) else None


def compare_with_known(source: Source, known: Known | None) -> list[str]:
    """Sentences on how a source's counts differ from the published ones; none where nothing is known."""
    if known is None:
        return []
    identities, images = len(source.classes), len(source)
    if (identities, images) == (known.identities, known.images):
        return [f"{known.title}: all {identities:,} identities and {images:,} images, as published"]
    sentences = [
        *_difference(identities, known.identities, "identities", known.title),
        *_difference(images, known.images, "images", known.title),
    ]
    reasons = [variant.reason for variant in known.variants if _fits(variant, identities, images)]
    return [*sentences, *(reasons or _guesses(identities, images, known))]


def _difference(found: int, expected: int, what: str, title: str) -> list[str]:
    if found == expected:
        return [f"{title}: all {found:,} {what}, as published"]
    more = "more" if found > expected else "fewer"
    apart = abs(found - expected)
    return [
        f"{title}: {found:,} {what}, {apart:,} {more} ({_percent(apart / expected)}) than the published {expected:,}"
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "less than 0.1 %"


def _fits(variant: Variant, identities: int, images: int) -> bool:
    return variant.identities in (None, identities) and variant.images in (None, images)


def _guesses(identities: int, images: int, known: Known) -> list[str]:
    """What a difference without a known reason most often means."""
    if identities == known.identities + 1:
        return ["One identity too many is often a folder or label that is none: look for one of another kind"]
    if images < 0.99 * known.images or identities < 0.99 * known.identities:
        return ["The copy may be cut short or a part: compare its size with the place it comes from"]
    if images > 1.01 * known.images or identities > 1.01 * known.identities:
        return ["This may be another version of the data set, or something else in the same folder"]
    return ["A small difference is usual where the images were packed or aligned anew"]
