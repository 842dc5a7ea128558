"""Pictures of a verification: ROC, score histograms, and the pairs the model is most wrong about."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray

from frtrain.evaluation.metrics import Verification
from frtrain.evaluation.roc import roc

GENUINE = "#1b6ca8"
IMPOSTOR = "#c8553d"
INK = "#333333"
DOTS_PER_INCH = 110


@dataclass(frozen=True)
class PairError:
    """A pair that the threshold decides wrongly. `index` is its position in the pair list."""

    index: int
    genuine: bool
    score: float


def hardest_errors(
    scores: NDArray[np.float64], genuine: NDArray[np.bool_], threshold: float, count: int
) -> list[PairError]:
    """The most confident errors: up to `count` genuine pairs of the lowest score, then impostors of the highest."""
    ascending = np.argsort(scores, kind="stable")
    refused = [i for i in ascending if genuine[i] and scores[i] < threshold][:count]
    accepted = [i for i in ascending[::-1] if not genuine[i] and scores[i] >= threshold][:count]
    return [PairError(int(i), bool(genuine[i]), float(scores[i])) for i in (*refused, *accepted)]


def roc_figure(scores: NDArray[np.float64], genuine: NDArray[np.bool_], verification: Verification) -> Figure:
    """ROC with FAR on a logarithmic axis down to one impostor pair, operating points, and the bootstrap band if any."""
    curve = roc(scores, genuine)
    lowest = 1 / curve.impostor
    figure, axes = _figure(6.4, 4.6)
    if verification.intervals:
        band = verification.intervals.band
        label = f"{verification.intervals.confidence * 100:g} % band"
        axes.fill_between(band.far, band.low, band.high, color=GENUINE, alpha=0.18, lw=0, label=label)
    axes.step(np.maximum(curve.far, lowest / 2), curve.tar, where="post", color=GENUINE, lw=1.8, label="ROC")
    chance = np.geomspace(lowest / 2, 1, 100)
    axes.plot(chance, chance, color="#aaaaaa", lw=1, ls=":", label="chance")
    tar_without_false_accepts = float(curve.tar[curve.accepted_impostor == 0][-1])
    bottom = 0.0 if tar_without_false_accepts < 0.5 else np.floor(20 * tar_without_false_accepts - 1) / 20
    for point in verification.operating_points:
        if point.resolved:
            axes.plot(point.far_target, point.tar, "o", color=GENUINE, ms=5)
            axes.annotate(
                f"{point.tar * 100:.1f} %",
                (point.far_target, point.tar),
                textcoords="offset points",
                xytext=(6, -12) if point.tar > bottom + (1 - bottom) / 8 else (-4, 7),
                fontsize=8.5,
                color=INK,
            )
    axes.set_xscale("log")
    axes.set_xlim(lowest, 1)
    axes.set_ylim(bottom, 1 + (1 - bottom) / 50)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.3g} %"))
    axes.set_xlabel(f"false accept rate (from one of {curve.impostor:,} impostor pairs)")
    axes.set_ylabel(f"true accept rate ({curve.genuine:,} genuine pairs)")
    axes.set_title(f"AUC {verification.auc:.4f}   EER {verification.eer * 100:.2f} %", fontsize=11, color=INK)
    axes.legend(loc="upper left" if verification.auc < 0.8 else "lower right", frameon=False, fontsize=8.5)
    return figure


def histogram_figure(scores: NDArray[np.float64], genuine: NDArray[np.bool_], threshold: float) -> Figure:
    """Densities of genuine and impostor scores, and the threshold between them."""
    figure, axes = _figure(6.4, 4.6)
    low, high = float(scores.min()), float(scores.max())
    margin = 0.02 * (high - low) or 0.01
    bins = int(np.clip(np.sqrt(len(scores)), 12, 60))
    edges = np.linspace(low - margin, high + margin, bins + 1).tolist()
    for kind, color, label in ((genuine, GENUINE, "genuine"), (~genuine, IMPOSTOR, "impostor")):
        share = np.full(int(kind.sum()), 1 / kind.sum())
        axes.hist(scores[kind], edges, weights=share, color=color, alpha=0.45, label=f"{label} ({kind.sum():,})")
        axes.hist(scores[kind], edges, weights=share, color=color, histtype="step", lw=1.2)
    axes.axvline(threshold, color=INK, lw=1.2, ls="--", label=f"threshold {threshold:.3f}")
    refused, accepted = np.mean(scores[genuine] < threshold), np.mean(scores[~genuine] >= threshold)
    axes.set_title(
        f"refused genuine {refused * 100:.1f} %   accepted impostor {accepted * 100:.1f} %", fontsize=11, color=INK
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.3g} %"))
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("share of the pairs of its kind")
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def error_sheet(
    errors: Sequence[PairError],
    images: Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    captions: Callable[[int], tuple[str, str]],
    columns: int = 4,
) -> Figure:
    """Crops of `hardest_errors`, refused genuine pairs first.

    Args:
        errors: which pairs.
        images: both crops of a pair, `uint8 [H, W, 3]`, by its position in the pair list.
        captions: the name of each.
        columns: pairs side by side.
    """
    kinds = [
        (True, "Genuine pairs refused, lowest score first"),
        (False, "Impostor pairs accepted, highest score first"),
    ]
    blocks = [([error for error in errors if error.genuine is kind], title) for kind, title in kinds]
    rows = [max(1, -(-len(members) // columns)) for members, _ in blocks]
    width, row_height, title_height = 2.45 * columns, 1.62, 0.36
    height = sum(rows) * row_height + len(blocks) * title_height
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    top = height
    for (members, title), block_rows in zip(blocks, rows, strict=True):
        color = GENUINE if title.startswith("Genuine") else IMPOSTOR
        figure.text(0.08 / width, (top - 0.24) / height, title, fontsize=11, color=color, weight="bold")
        top -= title_height
        if not members:
            figure.text(0.08 / width, (top - 0.3) / height, "none", fontsize=10, color=INK)
        for place, error in enumerate(members):
            left = (place % columns) * 2.45
            bottom = top - (place // columns + 1) * row_height
            for side, (image, name) in enumerate(zip(images(error.index), captions(error.index), strict=True)):
                area = ((left + 0.06 + side * 1.17) / width, (bottom + 0.42) / height, 1.14 / width, 1.14 / height)
                axes = figure.add_axes(area)
                axes.imshow(image, interpolation="nearest")
                axes.set_axis_off()
                figure.text(
                    (left + 0.06 + side * 1.17) / width, (bottom + 0.28) / height, _short(name), fontsize=6.5, color=INK
                )
            figure.text(
                (left + 0.06) / width, (bottom + 0.12) / height, f"{error.score:.3f}", fontsize=8.5, color=color
            )
        top -= block_rows * row_height
    return figure


def png(figure: Figure) -> bytes:
    """Encode a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.set_minor_locator(NullLocator())
    return figure, axes


def _short(name: str, limit: int = 19) -> str:
    return name if len(name) <= limit else f"{name[: limit - 6]}…{name[-5:]}"
