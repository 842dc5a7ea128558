"""The picture of one loss, or of several over each other: logits, pull and push over the angles, and the boundary."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator

from frtrain.losscurves.curves import ANGLES, PLANE, SAME, Curves, Scene
from frtrain.losscurves.probe import CROWD_ANGLE, CROWD_NORM, DRAWS, Reading, Values

COLORS = ("#1b6ca8", "#c8553d", "#3a8f5c", "#8a5a9e", "#d19a2a", "#2a9d9d", "#b0567e", "#5a5a5a")
"""One for each loss of a page."""

INK, FAINT = "#333333", "#9a9a9a"
Dash = str | tuple[float, tuple[float, ...]]

DASHES: tuple[Dash, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)))
"""One for each held angle, the largest first."""

WIDTH, HEIGHT, EDGE = 11.4, 7.3, 0.14
"""Of the page and its border, in inches."""

LINE = 1.62 / 72
"""Height of a line of text per point of its size, in inches."""

INCOMPARABLE = 6.0
"""Curves whose largest values differ by more than this factor are drawn relative to them."""

REFERENCE: Dash = (0, (1, 1.5))
DIAGONAL: Dash = (0, (5, 3))

DEGREES = FuncFormatter(lambda value, _: f"{value:g}°")

NOTE_WIDTH = 200
"""Characters of a line of the notes."""

IN_ONE_COLUMN = 7
"""Names of curves that fit into one column of the legend."""


@dataclass(frozen=True)
class Pen:
    """How the curves of one loss at one length are drawn, and their name in the legend."""

    curves: Curves
    color: tuple[float, float, float]
    name: str


def picture(curves: Sequence[Curves], scene: Scene, title: str, subtitle: str, dots_per_inch: int) -> Figure:
    """Draw curves of one or several losses.

    Args:
        curves: of `frtrain.losscurves.curves.curves_of`, those of one loss side by side.
        scene: in which they were read.
        title: of the page.
        subtitle: below it, smaller.
        dots_per_inch: of `WIDTH` x `HEIGHT` inches.
    """
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=dots_per_inch)
    FigureCanvasAgg(figure)
    top = _write(figure, title, EDGE, size=13, weight="bold")
    top = _write(figure, subtitle, top + 0.04, size=8.5) if subtitle else top
    notes = "\n".join(textwrap.wrap(" ".join(_notes(curves, scene)), NOTE_WIDTH))
    bottom = HEIGHT - EDGE - LINE * 8 * (notes.count("\n") + 1)
    _write(figure, notes, bottom, size=8)
    grid = figure.add_gridspec(
        2, 3, left=0.055, right=0.985, top=1 - (top + 0.36) / HEIGHT, bottom=1 - (bottom - 0.55) / HEIGHT,
        wspace=0.22, hspace=0.42,
    )  # fmt: skip
    panels = [figure.add_subplot(grid[place // 3, place % 3]) for place in range(6)]
    pens = _pens(curves)
    what = _what(curves)

    _along(panels[0], pens, scene, lambda c: c.along_own, lambda r: r.target, lambda r: r.target_spread)
    _label(panels[0], "a", rf"own class: {what} $s\,T(\theta_y)$" if what == "logit" else f"own class: {what}", "own")
    _along(panels[1], pens, scene, lambda c: c.along_other, lambda r: r.other, lambda r: r.other_spread)
    name = rf"a wrong class: {what} $s\,N(\theta_j)$" if what == "logit" else f"a wrong class: {what}"
    _label(panels[1], "b", name, "other")
    _plane(panels[2], pens)
    _along(panels[3], pens, scene, lambda c: c.along_own, lambda r: r.pull)
    _label(panels[3], "d", r"pull to the own centre: $\partial L/\partial\theta_y$", "own")
    _along(panels[4], pens, scene, lambda c: c.along_other, lambda r: r.push)
    _label(panels[4], "e", r"push from the wrong centre: $-\partial L/\partial\theta_j$", "other")
    if len(pens) == 1 and not curves[0].is_sum:
        for panel in panels[:2]:
            panel.plot(ANGLES, curves[0].along_own[0].plain, color=FAINT, lw=1, ls=REFERENCE, zorder=1.5)
    _legend(panels[5], pens, scene)
    return figure


def png(figure: Figure) -> bytes:
    """Encode a figure at its own resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _write(figure: Figure, text: str, top: float, size: float, weight: str = "normal") -> float:
    """Write lines from so many inches below the upper edge on, and return where they end."""
    figure.text(
        EDGE / WIDTH, 1 - top / HEIGHT, text, fontsize=size, color=INK, va="top", weight=weight, linespacing=1.35
    )
    return top + LINE * size * (text.count("\n") + 1)


def _pens(curves: Sequence[Curves]) -> list[Pen]:
    labels = list(dict.fromkeys(item.label for item in curves))
    pens = []
    for number, label in enumerate(labels):
        members = [item for item in curves if item.label == label]
        for shade, item in zip(_shades(COLORS[number % len(COLORS)], len(members)), members, strict=True):
            length = "" if item.norm is None else f"embedding of length {item.norm:g}"
            name = (
                length or label if len(labels) == 1 else f"{label}, {length.replace('embedding of ', '')}".rstrip(", ")
            )
            pens.append(Pen(item, shade, name))
    return pens


def _shades(color: str, count: int) -> list[tuple[float, float, float]]:
    """From light to dark, the colour itself in the middle."""
    base = np.array(to_rgb(color))
    shades = []
    for place in np.linspace(-0.5, 0.5, count) if count > 1 else [0.0]:
        towards = np.ones(3) if place < 0 else np.zeros(3)
        shades.append(tuple(base + (towards - base) * abs(place)))
    return shades


def _what(curves: Sequence[Curves]) -> str:
    kinds = {item.is_sum for item in curves}
    return "logit or loss term" if len(kinds) == 2 else "loss term" if kinds == {True} else "logit"


def _styles(scene: Scene) -> list[tuple[int, float, Dash]]:
    """Place, degrees and dash of each held angle, the largest first."""
    order = sorted(range(len(scene.angles)), key=lambda place: -scene.angles[place])
    return [(place, scene.angles[place], dash) for place, dash in zip(order, DASHES, strict=False)]


def _along(
    axes: Axes,
    pens: Sequence[Pen],
    scene: Scene,
    readings: Callable[[Curves], Sequence[Reading]],
    values: Callable[[Reading], Values],
    spread: Callable[[Reading], Values] | None = None,
) -> None:
    """Curves over an angle, for each held angle at which they differ."""
    sizes = [max(float(np.abs(values(reading)).max()) for reading in readings(pen.curves)) or 1.0 for pen in pens]
    several = len({pen.curves.label for pen in pens}) > 1
    relative = several and max(sizes) > INCOMPARABLE * min(sizes)
    for pen, size in zip(pens, sizes, strict=True):
        unit = size if relative else 1.0
        drawn: list[Values] = []
        for place, _, dash in _styles(scene):
            reading = readings(pen.curves)[place]
            line = values(reading) / unit
            if any(np.allclose(line, earlier, rtol=0, atol=SAME * size / unit) for earlier in drawn):
                continue
            drawn.append(line)
            axes.plot(ANGLES, line, color=pen.color, lw=1.7, ls=dash)
            if spread is not None and spread(reading).any():
                band = spread(reading) / unit
                axes.fill_between(ANGLES, line - band, line + band, color=pen.color, alpha=0.22, lw=0)
    if relative:
        axes.set_ylabel("relative to the largest size", fontsize=8, color=INK, labelpad=1)
    axes.axhline(0, color=FAINT, lw=0.7, zorder=1)


def _plane(axes: Axes, pens: Sequence[Pen]) -> None:
    """Where each loss is content, by its border; filled where there is one loss at one length."""
    axes.plot(PLANE, PLANE, color=FAINT, lw=1.2, ls=DIAGONAL)
    for pen in pens:
        content = pen.curves.content
        if len(pens) == 1:
            axes.contourf(PLANE, PLANE, content, levels=[0, np.inf], colors=[pen.color], alpha=0.13)
        if content.min() < 0 < content.max():
            axes.contour(PLANE, PLANE, content, levels=[0], colors=[pen.color], linewidths=1.8)
    axes.set_aspect("equal", anchor="W")
    _label(axes, "c", "boundary between two classes", "own")
    axes.set_xlabel(r"angle to the own centre $\theta_1$", fontsize=9, color=INK)
    axes.set_ylabel(r"angle to the other centre $\theta_2$", fontsize=9, color=INK, labelpad=2)
    axes.set_xlim(PLANE[0], PLANE[-1])
    axes.yaxis.set_major_locator(MultipleLocator(30))
    axes.yaxis.set_major_formatter(DEGREES)


def _label(axes: Axes, letter: str, title: str, axis: Literal["own", "other"]) -> None:
    axes.set_title(f"({letter}) {title}", fontsize=10, color=INK, loc="left")
    name = r"the own centre $\theta_y$" if axis == "own" else r"the wrong centre $\theta_j$"
    axes.set_xlabel(f"angle to {name}", fontsize=9, color=INK)
    axes.set_xlim(ANGLES[0], ANGLES[-1])
    axes.xaxis.set_major_locator(MultipleLocator(30))
    axes.xaxis.set_major_formatter(DEGREES)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(True, color="#e6e6e6", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8.5)


def _legend(axes: Axes, pens: Sequence[Pen], scene: Scene) -> None:
    """Losses above, styles below."""
    axes.set_axis_off()
    look = {"frameon": False, "labelcolor": INK, "borderaxespad": 0, "handlelength": 2.4}
    if len(pens) > 1:
        columns = 1 if len(pens) <= IN_ONE_COLUMN else 2
        above = axes.legend(
            [Line2D([], [], color=pen.color, lw=2.4) for pen in pens],
            [pen.name for pen in pens],
            loc="upper left",
            ncols=columns,
            fontsize=8.5 if columns == 1 else 7.2,
            columnspacing=1,
            **look,
        )
        axes.add_artist(above)
    styles: list[tuple[str, str, Dash, float]] = [
        (f"(a, b, d, e) the other angle is {held:g}°", INK, dash, 1.6) for _, held, dash in _styles(scene)
    ]
    if len(pens) == 1 and not pens[0].curves.is_sum:
        styles.append(("(a, b) the scaled similarity as it is", FAINT, REFERENCE, 1.2))
    styles.append((r"(c) equal angles, $\theta_1=\theta_2$", FAINT, DIAGONAL, 1.2))
    axes.legend(
        [Line2D([], [], color=color, lw=width, ls=dash) for _, color, dash, width in styles],
        [name for name, *_ in styles],
        loc="lower left" if len(pens) > 1 else "upper left",
        fontsize=8.5,
        **look,
    )


def _notes(curves: Sequence[Curves], scene: Scene) -> list[str]:
    """What is assumed, in sentences."""
    labels = list(dict.fromkeys(item.label for item in curves))
    crowd = f" and the other {scene.classes - 2:,} at 90°" if scene.classes > 2 else ""
    notes = [rf"{scene.classes:,} classes: one wrong centre at $\theta_j${crowd}. Pull and push are per radian."]
    states = {item.label: _state(item) for item in curves if _state(item)}
    if states:
        told = "; ".join(text if len(labels) == 1 else f"{label}: {text}" for label, text in states.items())
        notes.append(
            f"State after {scene.steps:,} steps on embeddings at {CROWD_ANGLE:g}° and of length {CROWD_NORM:g}: {told}."
        )
    random = list(dict.fromkeys(item.label for item in curves if item.random))
    if random:
        whose = f" of {', '.join(random)}" if len(labels) > 1 else ""
        notes.append(f"The margin{whose} is random: mean of {DRAWS} draws, band of one standard deviation.")
    kinds = {item.is_sum for item in curves}
    if False in kinds:
        notes.append("(c) Inside, towards the upper left, the own class has the larger logit.")
    if True in kinds:
        which = "For a sum (no logits)" if len(kinds) > 1 else "(c) The loss is a sum, without logits"
        notes.append(f"{which}: inside, neither similarity has half of its largest gradient.")
    if any(item.has_terms for item in curves):
        notes.append("Terms besides the softmax count in (d) and (e) only.")
    return notes


def _state(curves: Curves) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in curves.state.items() if name != "step")
