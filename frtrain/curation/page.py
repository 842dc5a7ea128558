"""The worst cases as one self-contained HTML page, to look at before anything is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from frtrain import __version__
from frtrain.curation.findings import Findings
from frtrain.curation.search import Surveyed
from frtrain.data.encoded import image_name
from frtrain.data.images import encode_png_or_jpeg
from frtrain.data.inspection.contact_sheet import thumbnail
from frtrain.page import data_uri, headline, page

THUMBNAIL, QUALITY = 72, 80
IMAGES_IN_A_ROW = 8


def findings_page(
    findings: Findings, data: Surveyed, test: Surveyed | None, shown: int, model: str, created: str
) -> str:
    """Render the page.

    Args:
        findings: all of them; the first `shown` of each kind are pictured.
        data: the data set.
        test: the test set it was compared with, if any.
        shown: cases of each kind.
        model: description of the model.
        created: date and time, ISO 8601.
    """
    parts = [
        _section(
            "In the test set too",
            "Identities of this data set that are people of the test set. Left: this data set, right: the test set.",
            (
                _case(
                    f"{overlap.identity} = {overlap.other}",
                    f"by {overlap.by}, cosine {overlap.cosine:.2f}, doubt {overlap.doubt:.3f}",
                    [_typical(data, overlap.identity), _typical(test, overlap.other)],
                )
                for overlap in findings.overlaps[:shown]
                if test is not None
            ),
            len(findings.overlaps),
        ),
        _section(
            "Wrong labels",
            "Left: the image. Then its identity; then the identity it looks like, where one stands out.",
            (
                _case(
                    f"{case.name}",
                    f"fits {case.identity} by {case.fit:.2f}"
                    + (f", {case.suggestion} by {case.suggestion_cosine:.2f}" if case.suggestion else ""),
                    [
                        [_picture(data, case.image)],
                        _typical(data, case.identity, but=case.image),
                        _typical(data, case.suggestion) if case.suggestion else [],
                    ],
                )
                for case in findings.mislabelled[:shown]
            ),
            len(findings.mislabelled),
        ),
        _section(
            "One person, two identities",
            "Identities that could be merged.",
            (
                _case(
                    f"{merge.identity} = {merge.other}",
                    f"cosine {merge.cosine:.2f}, doubt {merge.doubt:.3f}",
                    [_typical(data, merge.identity), _typical(data, merge.other)],
                )
                for merge in findings.merges[:shown]
            ),
            len(findings.merges),
        ),
        _section(
            "Two people, one identity",
            "Left: the dominant person; right: the second group, which could be an identity of its own.",
            (
                _case(
                    split.identity,
                    f"{len(split.images)} images of a second person, cosine {split.cosine:.2f}",
                    [
                        _typical(data, split.identity),
                        [_picture(data, image) for image in split.images[:IMAGES_IN_A_ROW]],
                    ],
                )
                for split in findings.splits[:shown]
            ),
            len(findings.splits),
        ),
        _section(
            "Nearly the same image",
            "The first of each group would be kept.",
            (
                _case(
                    " = ".join(group.identities),
                    f"{len(group.images)} images",
                    [[_picture(data, image) for image in group.images[:IMAGES_IN_A_ROW]]],
                )
                for group in findings.duplicates[:shown]
            ),
            len(findings.duplicates),
        ),
    ]
    thresholds = ", ".join(f"{name} {value:.3f}" for name, value in findings.thresholds.items())
    about = (
        f"{len(data.source):,} images of {len(data.source.classes):,} identities, seen by {model}. "
        f"{len(findings.unreadable):,} images are unreadable. Cosines: {thresholds}. "
        f"Made {created.replace('T', ' ').replace('+00:00', ' UTC')} by frtrain {__version__}. Nothing was changed or "
        "deleted: the lists beside this page say what would be left out (subset.exclude)."
    )
    counts = headline(
        [
            (f"{len(findings.overlaps):,}", "in the test set too"),
            (f"{len(findings.mislabelled):,}", "wrong labels"),
            (f"{len(findings.merges):,}", "double identities"),
            (f"{len(findings.splits):,}", "mixed identities"),
            (f"{len(findings.duplicates):,}", "groups of equal images"),
        ]
    )
    body = "\n".join([STYLE, counts, f'<p class="note">{_printable(about)}</p>', *filter(None, parts)])
    return page("What to look at in this data set", body)


def _section(title: str, about: str, cases: Iterable[str], total: int) -> str:
    if not total:
        return ""
    pictured = list(cases)
    more = f" The first {len(pictured)} are shown." if len(pictured) < total else ""
    return (
        f"<h2>{escape(title)}: {total:,}</h2><p class='note'>{escape(about)}{more}</p>"
        f"<div class='cases'>{''.join(pictured)}</div>"
    )


def _case(title: str, facts: str, groups: Sequence[Sequence[str]]) -> str:
    pictures = "".join(f"<span class='group'>{''.join(group)}</span>" for group in groups if group)
    title, facts = (_printable(text) for text in (title, facts))
    return f"<div class='case'><p><b>{title}</b> <span class='note'>{facts}</span></p>{pictures}</div>"


def _printable(text: str) -> str:
    return escape(text.encode("utf-8", "backslashreplace").decode())


def _typical(data: Surveyed | None, identity: str, but: int | None = None) -> list[str]:
    """The images of an identity that fit it best."""
    if data is None:
        return []
    images = np.flatnonzero((data.source.labels == data.label_of[identity]) & data.embedded.readable)
    fit = np.nan_to_num(data.centres.fit[images], nan=-1.0)
    best = [image for image in images[np.argsort(-fit, kind="stable")] if image != but]
    return [_picture(data, int(image)) for image in best[: IMAGES_IN_A_ROW // 2]]


def _picture(data: Surveyed, image: int) -> str:
    name = _printable(image_name(data.source, image))
    content = encode_png_or_jpeg(thumbnail(data.source, image, THUMBNAIL), ".jpg", QUALITY)
    return f"<img alt='{name}' title='{name}' src='{data_uri(content, 'jpeg')}'>"


STYLE = """<style>
.cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(480px, 1fr)); gap: .9rem 1.5rem; }
.case { border-top: 1px solid #eee; padding-top: .3rem; overflow: hidden; }
.case p { margin: 0 0 .3rem; overflow-wrap: anywhere; font-size: .9rem; }
.group { display: inline-block; white-space: nowrap; padding-right: 10px; }
.case img { width: 46px; height: 46px; margin-right: 2px; border-radius: 3px; }
</style>"""
