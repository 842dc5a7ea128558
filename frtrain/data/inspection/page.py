"""The summary of a data set as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from frtrain import __version__
from frtrain.data.encoded import image_name
from frtrain.data.images import encode_png_or_jpeg
from frtrain.data.inspection.contact_sheet import COLUMNS, contact_sheet, sheet_rows, thumbnail
from frtrain.data.inspection.summary import Summary
from frtrain.data.inspection.words import KINDS, facts, number, problem_words, shortened, size_rows
from frtrain.data.source import Source
from frtrain.page import ACCENT, figure, headline, page, table

LARGEST_PAGE = 3_000_000
"""Bytes; thumbnails are encoded more coarsely until the page fits."""

QUALITIES = (85, 70, 50, 30, 10)
"""Of the thumbnails' JPEG, one after the other."""

GROUPS, IMAGES_OF_A_GROUP = 24, 6
"""Duplicate groups that are shown, and images of each."""

PROBLEMS = 100
"""Unusable images that are named; the JSON has all."""

SHEET_SIDE = 100
"""Pixels of an image on the contact sheet."""

SENTENCE = 1000

CAPTION = 60
"""Characters of a name below a thumbnail."""


def html_page(source: Source, summary: Summary, title: str, known: Sequence[str], created: str) -> str:
    """Render the page, of at most `LARGEST_PAGE` bytes.

    Args:
        source: for names and pictures.
        summary: of it.
        title: what it is called.
        known: sentences on how it compares with what is published.
        created: date and time, ISO 8601.
    """
    pictures = _Pictures(source, summary)
    for quality in QUALITIES:
        text = _render(source, summary, title, known, created, pictures, quality)
        if len(text.encode()) <= LARGEST_PAGE:
            break
    return text


class _Pictures:
    """Decoded once, encoded as coarsely as needed."""

    def __init__(self, source: Source, summary: Summary):
        self.extremes = [[thumbnail(source, index) for index, _ in extreme.images] for extreme in summary.extremes]
        self.groups = [
            [thumbnail(source, index) for index in group.images[:IMAGES_OF_A_GROUP]]
            for group in summary.duplicates.groups[:GROUPS]
        ]
        self.sheet = contact_sheet(source, sheet_rows(source, summary, "spread"), SHEET_SIDE)


def _render(
    source: Source, summary: Summary, title: str, known: Sequence[str], created: str, pictures: _Pictures, quality: int
) -> str:
    duplicates = summary.duplicates
    largest = summary.per_identity.largest
    made = f"{created.replace('T', ' ').replace('+00:00', ' UTC')} by frtrain {__version__}"
    parts = [
        headline(
            [
                (f"{summary.images:,}", "images"),
                (f"{summary.identities:,}", "identities"),
                (f"{summary.per_identity.spread.mean:.3g}", "images per identity"),
                (f"{len(summary.faults):,}", "cannot be used"),
                (f"{duplicates.levels[-1].surplus:,}", "surplus duplicates"),
            ]
            if summary.looked_at
            else [(f"{summary.images:,}", "images"), (f"{summary.identities:,}", "identities")]
        ),
        *(f'<p class="note">{escape(shortened(sentence, SENTENCE))}</p>' for sentence in known),
        f'<p class="warning">{escape(problem_words(summary))}</p>' if summary.faults else "",
        f'<div class="facts">{table([(escape(name), escape(text)) for name, text in [*facts(summary), ("made", made)]])}</div>',
        _problems(source, summary),
        "<h2>Images per identity</h2>",
        _histogram([(bar.label, bar.identities) for bar in summary.per_identity.histogram], "images", "identities"),
        '<div class="names numbers">',
        table([(escape(shortened(name)), f"{images:,}") for name, images in largest], ("most images", "")),
        "</div>",
        "<h2>A few identities</h2>",
        f'<p class="note">A row each, spread over the data set, the first {COLUMNS} images.</p>',
        figure(encode_png_or_jpeg(pictures.sheet, ".jpg", quality), "", "jpeg"),
    ]
    if summary.readable:
        parts += [_measures(summary), *_extremes(source, summary, pictures, quality)]
    if summary.looked_at:
        parts += [_levels(summary), *_groups(source, summary, pictures, quality)]
    return page(shortened(title), "\n".join(parts))


def _problems(source: Source, summary: Summary) -> str:
    if not summary.faults:
        return ""
    rows = [
        (escape(shortened(image_name(source, fault.index))), escape(shortened(fault.reason)))
        for fault in summary.faults[:PROBLEMS]
    ]
    more = len(summary.faults) - len(rows)
    return f'<h2>Cannot be used</h2><div class="names">{table(rows, ("image", "reason"))}</div>' + (
        f'<p class="note">and {more:,} more</p>' if more else ""
    )


def _measures(summary: Summary) -> str:
    rows = [
        (escape(name), *(number(value) for value in spread.percentiles.values()))
        for name, spread in summary.measures.items()
    ]
    sizes = [(escape(size), f"{images:,}") for size, images in size_rows(summary)]
    return (
        "<h2>Pixels</h2>"
        f'<div class="numbers">{table(rows, ("", "min", "1 %", "25 %", "median", "75 %", "99 %", "max"))}</div>'
        '<p class="note">Brightness and contrast are mean and standard deviation of the grey image (0 to 255); sharpness is '
        "the variance of its Laplacian, comparable between images of one size.</p>"
        f'<h2>Sizes</h2><div class="numbers">{table(sizes, ("width x height", "images"))}</div>'
    )


def _extremes(source: Source, summary: Summary, pictures: _Pictures, quality: int) -> list[str]:
    parts = ["<h2>Extremes</h2>"]
    for extreme, images in zip(summary.extremes, pictures.extremes, strict=True):
        captions = [
            f"{shortened(image_name(source, index), CAPTION)} ({number(value)})" for index, value in extreme.images
        ]
        parts.append(f"<div>{escape(extreme.name)}, with {escape(extreme.measure)}</div>")
        parts.append(_thumbnails(images, captions, quality))
    return parts


def _levels(summary: Summary) -> str:
    rows = [
        (
            escape(KINDS[level.kind]),
            *(f"{count:,}" for count in (level.groups, level.images, level.surplus, level.within, level.between)),
        )
        for level in summary.duplicates.levels
    ]
    header = ("", "groups", "images", "surplus", "within one identity", "between identities")
    return (
        f'<h2>Duplicates</h2><div class="numbers">{table(rows, header)}</div>'
        '<p class="note">Each row includes those above it. Surplus images are those beyond the first of a group. A group '
        "between identities holds the same picture under several names: one of them is wrong, or they are one person.</p>"
    )


def _groups(source: Source, summary: Summary, pictures: _Pictures, quality: int) -> list[str]:
    parts = []
    for group, images in zip(summary.duplicates.groups, pictures.groups, strict=False):
        more = f", {IMAGES_OF_A_GROUP} of them shown" if len(group.images) > IMAGES_OF_A_GROUP else ""
        where = "within one identity" if group.identities == 1 else f"between {group.identities:,} identities"
        title = f"<div>{escape(KINDS[group.kind])}, {where}, {len(group.images):,} images{more}</div>"
        captions = [shortened(image_name(source, index), CAPTION) for index in group.images]
        parts.append(f"<div>{title}{_thumbnails(images, captions[: len(images)], quality)}</div>")
    parts = [f'<div class="groups">{"".join(parts)}</div>']
    more_groups = len(summary.duplicates.groups) - len(pictures.groups)
    if more_groups:
        parts.append(f'<p class="note">and {more_groups:,} more groups</p>')
    return parts


def _thumbnails(images: Sequence[NDArray[np.uint8]], captions: Sequence[str], quality: int) -> str:
    figures = [
        figure(encode_png_or_jpeg(image, ".jpg", quality), caption, "jpeg")
        for image, caption in zip(images, captions, strict=True)
    ]
    return f'<div class="thumbnails">{"".join(figures)}</div>'


def _histogram(bars: Sequence[tuple[str, int]], across: str, up: str) -> str:
    """Bars with their numbers on top, as SVG."""
    step, height, foot = 62, 150, 42
    width = step * len(bars)
    most = max(1, *(count for _, count in bars)) if len(bars) > 1 else max(1, bars[0][1])
    drawn = []
    for place, (label, count) in enumerate(bars):
        tall = height * count / most
        left, middle = place * step + 4, place * step + step / 2
        drawn.append(
            f'<rect x="{left}" y="{18 + height - tall:.1f}" width="{step - 8}" height="{tall:.1f}" fill="{ACCENT}"/>'
            f'<text x="{middle}" y="{13 + height - tall:.1f}">{count:,}</text>'
            f'<text x="{middle}" y="{height + 34}">{escape(label)}</text>'
        )
    return (
        f'<svg role="img" aria-label="{escape(up)} by number of {escape(across)}" width="{width}" height="{height + foot}" '
        f'viewBox="0 0 {width} {height + foot}" style="max-width:100%" font-size="11" fill="#444" text-anchor="middle">'
        f"{''.join(drawn)}</svg>"
        f'<p class="note">{escape(up)} (above the bars) by number of {escape(across)} (below)</p>'
    )
