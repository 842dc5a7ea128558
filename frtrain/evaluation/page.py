"""The evaluation as one self-contained HTML page: no script, no network, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from string import Template

from frtrain import __version__
from frtrain.evaluation.suites import Report
from frtrain.evaluation.summary import rows


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
    return PAGE.substitute(
        title=escape(report.title),
        accuracy=f"{accuracy.mean * 100:.2f}",
        error=f"{accuracy.standard_error * 100:.2f}",
        auc=f"{verification.auc:.4f}",
        eer=f"{verification.eer * 100:.2f}",
        warning=warning,
        facts=_table([(escape(name), escape(value)) for name, value in facts.items()]),
        results=_table(
            [
                tuple(escape(cell) for cell in (row.name, row.value, row.interval, row.threshold, row.note))
                for row in rows(verification)
            ],
            ("", "value", "interval", "threshold", ""),
        ),
        about=escape(about),
        folds=_table(
            [
                (str(number), f"{share * 100:.2f} %", f"{threshold:.4f}")
                for number, (share, threshold) in enumerate(zip(accuracy.per_fold, accuracy.thresholds, strict=True), 1)
            ],
            ("fold", "accuracy", "threshold"),
        ),
        **{name.removesuffix(".png"): _figure(content, caption) for name, (content, caption) in pictures.items()},
    )


def _figure(content: bytes, caption: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    caption = escape(caption)
    return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'


def _table(cells: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    head = "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in header) + "</tr></thead>" if header else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
    return f"<table>{head}<tbody>{body}</tbody></table>"


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #fff;
  max-width: 1100px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.headline { display: flex; flex-wrap: wrap; gap: 2.5rem; margin: 1rem 0 1.4rem; }
.headline b { display: block; font-size: 1.7rem; font-weight: 600; }
.headline span, .note, figcaption, th, .facts td:first-child, .results td:last-child { color: #666; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; }
th, td { padding: .28rem 1.4rem .28rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
.facts td { overflow-wrap: anywhere; }
.facts td:first-child, .results td:nth-child(-n+4) { white-space: nowrap; }
.results td:nth-child(2) { font-weight: 600; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1.5rem; }
figure { margin: 0; }
img { max-width: 100%; }
figcaption { font-size: .9rem; }
.warning { background: #fdf1e3; border-left: 4px solid #d98324; padding: .6rem 1rem; }
</style></head><body>
<h1>$title</h1>
<div class="headline"><div><b>$accuracy ± $error %</b><span>accuracy</span></div><div><b>$auc</b><span>AUC</span></div>
<div><b>$eer %</b><span>equal error rate</span></div></div>
$warning<div class="facts">$facts</div>
<h2>Results</h2><div class="results">$results</div>
<p class="note">A pair is accepted when its score is at or above the threshold. FAR is the share of impostor pairs
accepted; TAR at FAR is the highest share of genuine pairs accepted while FAR stays at or below the bound. $about</p>
<div class="pictures">$roc$scores</div>
<h2>Most confident errors</h2>$errors
<h2>Folds</h2>$folds
</body></html>
""")
