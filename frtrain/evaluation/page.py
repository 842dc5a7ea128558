"""The evaluation as one self-contained HTML page: no script, no network, pictures inside."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from string import Template

from frtrain import __version__
from frtrain.evaluation.suites import Report
from frtrain.evaluation.summary import rows
from frtrain.page import figure, headline, page, table


def html_page(report: Report, model: str, created: str, pictures: Mapping[str, tuple[bytes, str]]) -> str:
    """Render a report.

    Args:
        report: the numbers.
        model: description of the model.
        created: date and time, ISO 8601.
        pictures: PNG bytes and caption of `roc.png`, `scores.png` and `errors.png`.
    """
    verification = report.verification
    accuracy = verification.accuracy
    facts = {
        "model": model,
        "pairs": f"{len(report.pairs):,} ({verification.genuine:,} genuine, {verification.impostor:,} impostor)",
        "images": f"{report.images:,}",
        **report.settings,
        "made": f"{created.replace('T', ' ').replace('+00:00', ' UTC')} by frtrain {__version__}",
        "took": f"{report.seconds:.1f} s",
    }
    intervals = verification.intervals
    about = (
        f"Intervals: {intervals.confidence * 100:g} %, bootstrap over pairs, {intervals.resamples:,} resamples."
        if intervals
        else "No intervals: suite.resamples=0."
    )
    warning = ""
    if report.missing:
        left_out = report.pairs_in_list - len(report.pairs)
        warning = (
            f'<p class="warning">{len(report.missing):,} images are missing: {left_out:,} of {report.pairs_in_list:,} '
            "pairs were left out. The numbers are not comparable with published ones.</p>"
        )
    body = BODY.substitute(
        headline=headline(
            [
                (f"{accuracy.mean * 100:.2f} ± {accuracy.standard_error * 100:.2f} %", "accuracy"),
                (f"{verification.auc:.4f}", "AUC"),
                (f"{verification.eer * 100:.2f} %", "equal error rate"),
            ]
        ),
        warning=warning,
        facts=table([(escape(name), escape(value)) for name, value in facts.items()]),
        results=table(
            [
                tuple(escape(cell) for cell in (row.name, row.value, row.interval, row.threshold, row.note))
                for row in rows(verification)
            ],
            ("", "value", "interval", "threshold", ""),
        ),
        about=escape(about),
        folds=table(
            [
                (str(number), f"{share * 100:.2f} %", f"{threshold:.4f}")
                for number, (share, threshold) in enumerate(zip(accuracy.per_fold, accuracy.thresholds, strict=True), 1)
            ],
            ("fold", "accuracy", "threshold"),
        ),
        **{name.removesuffix(".png"): figure(content, caption) for name, (content, caption) in pictures.items()},
    )
    return page(report.title, body)


BODY = Template("""$headline
$warning<div class="facts">$facts</div>
<h2>Results</h2><div class="results">$results</div>
<p class="note">A pair is accepted when its score is at or above the threshold. FAR is the share of impostor pairs
accepted; TAR at FAR is the highest share of genuine pairs accepted while FAR stays at or below the bound. $about</p>
<div class="pictures">$roc$scores</div>
<h2>Most confident errors</h2>$errors
<h2>Folds</h2>$folds""")
