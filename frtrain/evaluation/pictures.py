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
EDGE, CROP, PAIR_WIDTH, PAIR_HEIGHT, TITLE = 0.06, 1.14, 2.45, 1.62, 0.36
"""Measures of the sheet of errors, in inches."""


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
    tar_without_false_accepts = float(curve.tar[curve.accepted_impostor == 0][-1])
    bottom = 0.0 if tar_without_false_accepts < 0.5 else np.floor(20 * tar_without_false_accepts - 1) / 20
    if bottom == 0:
        chance = np.geomspace(lowest, 1, 100)
        axes.plot(chance, chance, color="#aaaaaa", lw=1, ls=":", label="chance")
    for point in verification.operating_points:
        if point.resolved:
            axes.plot(point.far_target, point.tar, "o", color=GENUINE, ms=5)
            axes.annotate(
                f"{point.tar * 100:.1f} %",
                (point.far_target, point.tar),
                textcoords="offset points",
                xytext=(6, -12) if point.tar > bottom + (1 - bottom) / 8 else (-12, 9),
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
        f"refused genuine {refused * 100:.2f} %   accepted impostor {accepted * 100:.2f} %", fontsize=11, color=INK
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.3g} %"))
    axes.set_xlabel("cosine similarity")
    axes.set_ylabel("share of the pairs of its kind")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.12)
    axes.legend(frameon=False, fontsize=8.5, loc="upper center", ncols=3)
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
    blocks = (
        ("Genuine pairs refused, lowest score first", GENUINE, [error for error in errors if error.genuine]),
        ("Impostor pairs accepted, highest score first", IMPOSTOR, [error for error in errors if not error.genuine]),
    )
    heights = [TITLE + (-(-len(members) // columns) * PAIR_HEIGHT or TITLE) for _, _, members in blocks]
    sheet = _Sheet(columns * PAIR_WIDTH, sum(heights))
    top = 0.0
    for (title, color, members), block_height in zip(blocks, heights, strict=True):
        sheet.text(EDGE, top + 0.24, title, color, size=11, weight="bold")
        if not members:
            sheet.text(EDGE, top + TITLE + 0.18, "none", INK, size=10)
        for place, error in enumerate(members):
            x = EDGE + place % columns * PAIR_WIDTH
            y = top + TITLE + place // columns * PAIR_HEIGHT
            sheet.text(x, y + CROP + 0.28, f"{error.score:.3f}", color, size=8.5)
            for image, name in zip(images(error.index), captions(error.index), strict=True):
                sheet.picture(x, y, CROP, image)
                sheet.text(x, y + CROP + 0.12, _short(name), INK, size=6.5)
                x += CROP + 0.03
        top += block_height
    return sheet.figure


class _Sheet:
    """A figure to place things on in inches from its upper left corner."""

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
        FigureCanvasAgg(self.figure)

    def text(self, x: float, y: float, content: str, color: str, size: float, weight: str = "normal") -> None:
        place = x / self.width, 1 - y / self.height
        self.figure.text(*place, content, color=color, fontsize=size, weight=weight, parse_math=False)

    def picture(self, x: float, y: float, side: float, image: NDArray[np.uint8]) -> None:
        area = x / self.width, 1 - (y + side) / self.height, side / self.width, side / self.height
        axes = self.figure.add_axes(area)
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()


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
