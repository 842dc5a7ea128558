"""The curves of a picture: what a probe reads along the axes, once per length of the embedding where that matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frtrain.losscurves.probe import Probe, Reading, Values
from frtrain.losses.base import Geometry, Head

Mask = NDArray[np.bool_]

ANGLES: Values = np.linspace(0, 180, 361)
"""Degrees along the axes of the curves."""

PLANE: Values = np.linspace(0, 120, 121)
"""Degrees along both axes of the plane of theta_1 and theta_2."""

NORMS: dict[Geometry, tuple[float, ...]] = {
    "cosine": (10, 50, 110),
    "inner_product": (10, 50, 110),
    "euclidean": (1, 3, 10),
}
"""Lengths of the embedding at which a head is read, unless told otherwise."""

BISECTIONS = 10
"""Halvings of a step of the plane in the search for a border."""

SAME = 1e-6
"""Curves that differ by less, relative to their largest value, are one."""


@dataclass(frozen=True)
class Scene:
    """What is assumed.

    Attributes:
        classes: C, at least 2.
        angles: degrees at which the other angle is held while one runs from 0 to 180.
        norms: lengths of the embedding; None: `NORMS`.
        steps: training steps that the state of a head has behind it.
    """

    classes: int
    angles: tuple[float, ...]
    norms: tuple[float, ...] | None
    steps: int


@dataclass(frozen=True)
class Curves:
    """One head at one length of the embedding.

    Attributes:
        label: of the loss.
        norm: length of the embedding; None where the head does not react to it.
        is_sum: whether the loss is a sum of terms per class, without logits.
        along_own: for each held angle to the wrong centre, readings over `ANGLES` to the own one.
        along_other: for each held angle to the own centre, readings over `ANGLES` to the wrong one.
        content: `[theta_2, theta_1]` over `PLANE`, above 0 where the loss is content with an embedding between two
            centres. With logits: where the target's is the larger. Of a sum: where neither the gradient to the own nor
            that to the wrong similarity has half of its largest size. Near the border it is the distance to it.
        state: scalar buffers of the head.
        random: whether the curves are means over random draws.
        has_terms: whether the loss has terms besides its softmax, which `content` does not look at.
    """

    label: str
    norm: float | None
    is_sum: bool
    along_own: tuple[Reading, ...]
    along_other: tuple[Reading, ...]
    content: Values
    state: dict[str, float]
    random: bool
    has_terms: bool


def curves_of(label: str, head: Head[Any], scene: Scene) -> list[Curves]:
    """Read a fresh head: one element, or one for each length of the embedding if it reacts to that."""
    probe = Probe(head, scene.classes, scene.steps)
    norms = scene.norms or NORMS[head.geometry]
    reacts = _reacts_to_norm(probe, scene.angles, norms)
    return [_curves(label, probe, scene, norm, reacts) for norm in (norms if reacts else norms[:1])]


def _curves(label: str, probe: Probe, scene: Scene, norm: float, reacts: bool) -> Curves:
    head = probe.head
    return Curves(
        label=label,
        norm=norm if reacts else None,
        is_sum=head.reduction == "sum",
        along_own=tuple(probe.at(ANGLES, held, norm) for held in scene.angles),
        along_other=tuple(probe.at(held, ANGLES, norm) for held in scene.angles),
        content=_content(probe, norm),
        state=probe.state,
        random=probe.random,
        has_terms=head.terms,
    )


def _content(probe: Probe, norm: float) -> Values:
    theta_1, theta_2 = np.meshgrid(PLANE, PLANE)
    if probe.head.reduction == "cross_entropy":

        def wins(own: Values, other: Values) -> Mask:
            reading = probe.at(own, other, norm)
            return reading.target > reading.other

        return _distance_to_border(wins(theta_1.ravel(), theta_2.ravel()).reshape(theta_1.shape), wins)

    def sizes(own: Values, other: Values) -> tuple[Values, Values]:
        reading = probe.at(own, other, norm)
        return np.abs(reading.target_gradient), np.abs(reading.other_gradient)

    to_own, to_other = (size.reshape(theta_1.shape) for size in sizes(theta_1.ravel(), theta_2.ravel()))
    half_own, half_other = to_own.max() / 2, to_other.max() / 2

    def rests(own: Values, other: Values) -> Mask:
        to_own, to_other = sizes(own, other)
        return (to_own < half_own) & (to_other < half_other)

    # The largest so far, from theta_1 = 0 on: a loss that gives up on the farthest samples is not content with them.
    to_own = np.maximum.accumulate(to_own, axis=1)
    return _distance_to_border((to_own < half_own) & (to_other < half_other), rests)


def _distance_to_border(inside: Mask, holds: Callable[[Values, Values], Mask]) -> Values:
    """Distance of the nodes of `PLANE` from the border of a region, in steps of it, negative outside.

    Interpolating it gives the border to a fraction of a step, also where what it is the border of jumps. Along both
    axes the border is searched between neighbours by bisection; far from it, the distance is 1.

    Args:
        inside: `[theta_2, theta_1]`.
        holds: whether points, given by theta_1 and theta_2 `[n]`, belong to the region.
    """
    closeness = np.zeros(inside.shape)  # 1 / distance^2, which adds up over the axes
    for axis in (0, 1):
        first, second = inside.take(range(len(PLANE) - 1), axis), inside.take(range(1, len(PLANE)), axis)
        place = np.argwhere(first != second)
        step = np.eye(2, dtype=int)[axis]
        starts_inside = inside[tuple(place.T)][:, None]
        within, outside = (np.where(starts_inside == at_start, place, place + step) for at_start in (True, False))
        low, high = PLANE[within], PLANE[outside]
        for _ in range(BISECTIONS if len(place) else 0):
            middle = (low + high) / 2
            holding = holds(middle[:, 1], middle[:, 0])[:, None]
            low, high = np.where(holding, middle, low), np.where(holding, high, middle)
        share = np.abs(low - PLANE[within])[:, axis] / (PLANE[1] - PLANE[0])
        for nodes, distance in ((within, share), (outside, 1 - share)):
            nearest = np.full(inside.shape, np.inf)
            np.minimum.at(nearest, tuple(nodes.T), np.maximum(distance, 1e-3))
            closeness += nearest**-2.0
    distance = np.where(closeness > 0, np.maximum(closeness, 1e-9) ** -0.5, 1.0)
    return np.where(inside, distance, -distance)


def _reacts_to_norm(probe: Probe, angles: Sequence[float], norms: Sequence[float]) -> bool:
    def read(norm: float) -> Values:
        readings = [probe.at(ANGLES, held, norm) for held in angles]
        return np.stack(
            [getattr(reading, name) for reading in readings for name in ("target", "other", "pull", "push")]
        )

    first, *others = (read(norm) for norm in norms)
    tolerance = SAME * np.abs(first).max()
    return any(np.abs(other - first).max() > tolerance for other in others)
