"""Writing an evaluation down: report.html for people, report.json and pairs.csv for programs, the pictures as PNG."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frtrain import __version__
from frtrain.errors import DataError
from frtrain.evaluation.page import html_page
from frtrain.evaluation.pictures import error_sheet, hardest_errors, histogram_figure, png, roc_figure
from frtrain.evaluation.suites import Report
from frtrain.files import make_writable_folder, write_atomically

HARDEST_OF_EACH_KIND = 12


def prepare_folder(folder: Path) -> None:
    """Create `folder` and see that it can be written, before an evaluation is spent on it.

    Raises:
        DataError: it cannot.
    """
    try:
        make_writable_folder(folder)
    except OSError as error:
        raise DataError(
            f"output={folder}: cannot be written ({error.strerror or error}); choose another folder with output=FOLDER"
        ) from None


def write_report(report: Report, model: str, folder: Path) -> Path:
    """Write report.html, report.json, pairs.csv, roc.png, scores.png and errors.png; each aside and renamed.

    Args:
        report: what to write.
        model: description of the model.
        folder: created if absent; files of an earlier report are replaced.

    Returns:
        The path of report.html.

    Raises:
        DataError: the folder cannot be written.
        ImageError: a crop for the sheet of errors cannot be decoded.
    """
    prepare_folder(folder)
    pictures = _pictures(report)
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    contents: dict[str, bytes | str] = {name: content for name, (content, _) in pictures.items()}
    contents["pairs.csv"] = _pairs_csv(report)
    contents["report.json"] = _json(report, model, created)
    contents["report.html"] = html_page(report, model, created, pictures)
    try:
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise DataError(f"output={folder}: cannot be written ({error.strerror or error})") from None
    return folder / "report.html"


def _pictures(report: Report) -> dict[str, tuple[bytes, str]]:
    """PNG and caption by file name."""
    pairs, scores, verification = report.pairs, report.scores, report.verification

    def images(index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return report.image(pairs.left[index]), report.image(pairs.right[index])

    def captions(index: int) -> tuple[str, str]:
        return pairs.left[index].rpartition("/")[2], pairs.right[index].rpartition("/")[2]

    errors = hardest_errors(scores, pairs.genuine, verification.threshold, HARDEST_OF_EACH_KIND)
    return {
        "roc.png": (png(roc_figure(scores, pairs.genuine, verification)), "Receiver operating characteristic."),
        "scores.png": (
            png(histogram_figure(scores, pairs.genuine, verification.threshold)),
            "Scores of all pairs, and the threshold with the fewest errors on them.",
        ),
        "errors.png": (
            png(error_sheet(errors, images, captions)),
            f"The most confident errors at threshold {verification.threshold:.3f}; look for wrong labels.",
        ),
    }


def _json(report: Report, model: str, created: str) -> str:
    document = {
        "suite": report.suite,
        "model": model,
        "created": created,
        "frtrain": __version__,
        "settings": report.settings,
        "pairs": len(report.pairs),
        "pairs_in_list": report.pairs_in_list,
        "missing_images": list(report.missing),
        "seconds": round(report.seconds, 3),
        "verification": report.verification.as_dict(),
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _pairs_csv(report: Report) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["left", "right", "genuine", "fold", "score"])
    pairs = report.pairs
    for left, right, genuine, fold, score in zip(
        pairs.left, pairs.right, pairs.genuine, pairs.fold, report.scores, strict=True
    ):
        writer.writerow([left, right, int(genuine), int(fold), f"{score:.7f}"])
    return text.getvalue()
