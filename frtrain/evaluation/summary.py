"""A verification as a table of text: what the terminal and the HTML page show."""

from __future__ import annotations

from dataclasses import dataclass

from frtrain.evaluation.bootstrap import Interval
from frtrain.evaluation.metrics import Verification


@dataclass(frozen=True)
class Row:
    """One line of the table of results: a name, its value, its interval and its threshold, as text."""

    name: str
    value: str
    interval: str
    threshold: str
    note: str


def rows(verification: Verification) -> list[Row]:
    """The numbers of a verification as a reader meets them, in percent, most important first."""
    intervals = verification.intervals
    accuracy = verification.accuracy
    spread = f"{min(accuracy.thresholds):.4f} … {max(accuracy.thresholds):.4f}"
    note = f"mean of {len(accuracy.per_fold)} folds ± standard error, each at the threshold of the others"
    mean = f"{accuracy.mean * 100:.2f} ± {accuracy.standard_error * 100:.2f} %"
    table = [
        Row("Accuracy", mean, _percent(intervals.accuracy if intervals else None), spread, note),
        Row("AUC", f"{verification.auc:.4f}", _plain(intervals.auc if intervals else None), "", "area under the ROC"),
        Row(
            "EER",
            f"{verification.eer * 100:.2f} %",
            _percent(intervals.eer if intervals else None),
            f"{verification.eer_threshold:.4f}",
            "false accepts equal false rejects",
        ),
    ]
    for index, point in enumerate(verification.operating_points):
        note = f"attained FAR {point.far:.2g}"
        if not point.resolved:
            note = f"not resolved: needs {round(1 / point.far_target):,} impostor pairs; shown without any false accept"
        table.append(
            Row(
                f"TAR at FAR {point.far_target:g}",
                f"{point.tar * 100:.2f} %",
                _percent(intervals.tar[index] if intervals else None),
                f"{point.threshold:.4f}",
                note,
            )
        )
    best = f"{verification.best_accuracy * 100:.2f} %"
    table.append(
        Row("Best accuracy", best, "", f"{verification.threshold:.4f}", "threshold chosen on these very pairs")
    )
    return table


def _percent(interval: Interval | None) -> str:
    return f"{interval.low * 100:.2f} … {interval.high * 100:.2f} %" if interval else ""


def _plain(interval: Interval | None) -> str:
    return f"{interval.low:.4f} … {interval.high:.4f}" if interval else ""
