"""A head on a test bench: its logits, its loss and the gradients over the angles to the own and to a wrong centre.

The head is run as an engine runs it, on similarities that are made up instead of measured. The scene: an embedding of
length `norm` has the angle theta_y to its own centre and theta_j to one wrong centre; the other C - 2 wrong centres are
at a right angle. Where lengths matter, a centre has length 1 for inner products, that of the embedding for distances.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from frtrain.classifier.base import channels_of, scaled
from frtrain.classifier.reduction import REDUCTIONS, Reduction
from frtrain.losses.base import Head, Samples, SurveyKind

Values = NDArray[np.float64]

GATHER: dict[SurveyKind, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda found, copies: (found * copies).sum(dim=1),
    "max": lambda found, copies: found.where(copies > 0, -torch.inf).amax(dim=1),
    "logsumexp": lambda found, copies: (found + copies.log()).logsumexp(dim=1),
}
"""How a survey is gathered, `[n, c] -> [n]`, where column j stands for `copies[j]` classes."""

CROWD = 16
"""Samples of the batch on which the state of a head settles: a network in the middle of its training."""

CROWD_ANGLE, CROWD_ANGLE_SPREAD = 60.0, 10.0
"""Their angles to the own centre in degrees, mean and standard deviation."""

CROWD_NORM, CROWD_NORM_SPREAD = 50.0, 15.0
"""The lengths of their embeddings."""

DIMENSIONS, CROWD_COLUMNS = 512, 256
"""Size of their embeddings, so that cosines to wrong centres have the standard deviation 1 / sqrt(512), and of how many
wrong centres these are worked out, each for several."""

DRAWS = 32
"""Steps over which a head that draws random numbers is averaged."""

NOTHING = 1e-6
"""A logit that changes by less has not changed."""


@dataclass(frozen=True)
class Reading:
    """What a head makes of a number of scenes, `[n]` each.

    Attributes:
        target: s T, or the own class's term of a loss that is a sum.
        other: s N of the wrong class at theta_j, or its term.
        plain: s times the similarity to the own centre: `target` without a margin.
        pull: dL / d theta_y, per radian: how strongly the loss turns the embedding to its own centre.
        push: -dL / d theta_j, per radian: how strongly it turns it away from the wrong centre.
        target_gradient: -dL / d similarity to the own centre.
        other_gradient: dL / d similarity to the wrong centre.
        target_spread: standard deviation of `target` over the random draws of the head; 0 if it draws none.
        other_spread: the same of `other`.
    """

    target: Values
    other: Values
    plain: Values
    pull: Values
    push: Values
    target_gradient: Values
    other_gradient: Values
    target_spread: Values
    other_spread: Values


class Probe:
    """Evaluates one head.

    Args:
        head: fresh; it is set up, turned to float64 and training mode, and its state is settled.
        classes: C, at least 2.
        steps: training steps that the state of the head (running means, schedules) has behind it.

    Attributes:
        state: the head's scalar buffers then, by name.
        random: whether the head draws random numbers. What is read is then the mean over `DRAWS` steps.
    """

    def __init__(self, head: Head[Any], classes: int, steps: int):
        self.classes = classes
        head.double().train().set_up(classes)
        self._crowd = _crowd(head, classes)
        self._step(head, steps)
        self.state = {name: float(value) for name, value in head.named_buffers() if value.numel() == 1}
        later = [head]
        for _ in range(DRAWS - 1):
            later.append(copy.deepcopy(later[-1]))
            self._step(later[-1], 1)
        self.random = self._is_random(later)
        self._heads = later if self.random else [head]

    @property
    def head(self) -> Head[Any]:
        """The head with its state settled."""
        return self._heads[0]

    def at(self, own: ArrayLike, other: ArrayLike, norm: float) -> Reading:
        """Read the head at angles in degrees to the own and to the wrong centre, which broadcast to `[n]`."""
        angles = np.broadcast_arrays(np.asarray(own, float), np.asarray(other, float))
        own_angle, other_angle = (torch.tensor(np.atleast_1d(angle)) for angle in angles)
        draws = [self._read(head, own_angle, other_angle, norm, seed) for seed, head in enumerate(self._heads)]
        stacked = {field.name: np.stack([getattr(draw, field.name) for draw in draws]) for field in fields(Reading)}
        mean = Reading(**{name: values.mean(axis=0) for name, values in stacked.items()})
        return replace(mean, target_spread=stacked["target"].std(axis=0), other_spread=stacked["other"].std(axis=0))

    @torch.no_grad()
    def _step(self, head: Head[Any], steps: int) -> None:
        for _ in range(steps if any(True for _ in head.buffers()) else 0):
            head.row(self._surveyed_crowd(head))
            head.advance()

    def _is_random(self, later: list[Head[Any]]) -> bool:
        """A schedule or a running mean goes one way from step to step, a random number to and fro."""
        right, sixty = torch.tensor([90.0], dtype=torch.float64), torch.tensor([60.0], dtype=torch.float64)
        readings = [self._read(head, sixty, right, CROWD_NORM, seed) for seed, head in enumerate(later)]
        changes = np.diff([np.concatenate([reading.target, reading.other]) for reading in readings], axis=0)
        changes[np.abs(changes) < NOTHING] = 0
        return bool(((changes > 0).any(axis=0) & (changes < 0).any(axis=0)).any())

    def _read(self, head: Head[Any], own_degrees: Tensor, other_degrees: Tensor, norm: float, seed: int) -> Reading:
        own_angle, other_angle = (torch.deg2rad(angle).requires_grad_() for angle in (own_degrees, other_degrees))
        own, other = (_similarity(head, angle, norm) for angle in (own_angle, other_angle))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            target, others, plain, loss = self._evaluate(head, own, other, norm)
        to = torch.autograd.grad(
            loss.sum(), [own_angle, other_angle, own, other], allow_unused=True, materialize_grads=True
        )
        pull, push, target_gradient, other_gradient = (gradient.numpy() for gradient in to)
        nothing = np.zeros_like(pull)
        return Reading(
            target=target.detach().numpy(),
            other=others.detach().numpy(),
            plain=plain.detach().numpy(),
            pull=pull,
            push=-push,
            target_gradient=-target_gradient,
            other_gradient=other_gradient,
            target_spread=nothing,
            other_spread=nothing,
        )

    def _evaluate(
        self, head: Head[Any], own: Tensor, other: Tensor, norm: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Target, other, plain and loss, `[n]` each.

        The scenes stand in one batch with the crowd. They have the label -1, so that what the head finds out about the
        batch as a whole it finds out about the crowd.
        """
        right_angle = _similarity(head, torch.full_like(own.detach(), math.pi / 2), norm)
        wrong = torch.stack([other, right_angle], dim=1)[:, : self.classes - 1]
        copies = wrong.new_tensor([1, self.classes - 2])[: self.classes - 1]

        scenes = Samples(own, torch.full_like(own.detach(), norm), torch.full((len(own),), -1))
        scenes = replace(scenes, surveyed=_survey(head, wrong.detach(), scenes, copies))
        samples = _together(self._surveyed_crowd(head), scenes)
        wrong = torch.cat([wrong.new_zeros(CROWD, wrong.shape[1]), wrong])

        row = head.row(samples)
        scale = head.scale_of(row)
        target = scaled(head.target(samples.similarity, row), scale)
        channels = channels_of(head)
        values = [channel.values(wrong, row) for channel in channels]
        reduced = [_reduced(channel.reduction, value, copies) for channel, value in zip(channels, values, strict=True)]
        loss = REDUCTIONS[head.reduction].loss(target, reduced[0])
        if head.terms:
            loss = loss + head.target_term(samples.similarity, row) + reduced[1]
        loss = head.sample_losses(loss, samples)
        plain = scaled(samples.similarity, scale)
        return target[CROWD:], values[0][CROWD:, 0], plain[CROWD:], loss[CROWD:]

    @torch.no_grad()
    def _surveyed_crowd(self, head: Head[Any]) -> Samples:
        wrong, samples = self._crowd
        copies = wrong.new_full((wrong.shape[1],), (self.classes - 1) / wrong.shape[1])
        return replace(samples, surveyed=_survey(head, wrong, samples, copies))


def _crowd(head: Head[Any], classes: int) -> tuple[Tensor, Samples]:
    """Similarities to wrong centres `[CROWD, c]`, and the samples."""
    own = _normal(CROWD, CROWD_ANGLE, CROWD_ANGLE_SPREAD).clamp(0, 180).deg2rad()
    norm = _normal(CROWD, CROWD_NORM, CROWD_NORM_SPREAD).clamp(min=1).roll(CROWD // 3)  # not sorted like the angles
    wrong = _normal(min(classes - 1, CROWD_COLUMNS), 0, DIMENSIONS**-0.5).acos().expand(CROWD, -1)
    labels = torch.zeros(CROWD, dtype=torch.int64)
    return _similarity(head, wrong, norm[:, None]).detach(), Samples(
        _similarity(head, own, norm).detach(), norm, labels
    )


def _normal(count: int, mean: float, deviation: float) -> Tensor:
    """Evenly spread quantiles of a normal distribution, `[count]`."""
    distribution = NormalDist(mean, deviation)
    return torch.tensor([distribution.inv_cdf((place + 0.5) / count) for place in range(count)], dtype=torch.float64)


def _similarity(head: Head[Any], angle: Tensor, norm: float | Tensor) -> Tensor:
    """The similarity, in the head's geometry, of an embedding to a centre at this angle; any shape."""
    if head.geometry == "cosine":
        return angle.cos()
    fixed = head.embedding_length()
    length = norm if fixed is None else fixed
    if head.geometry == "inner_product":
        return length * angle.cos()
    return -2 * length**2 * (1 - angle.cos())


def _together(first: Samples, second: Samples) -> Samples:
    return Samples(
        torch.cat([first.similarity, second.similarity]),
        torch.cat([first.norm, second.norm]),
        torch.cat([first.labels, second.labels]),
        {name: torch.cat([first.surveyed[name], second.surveyed[name]]) for name in first.surveyed},
    )


def _survey(head: Head[Any], wrong: Tensor, samples: Samples, copies: Tensor) -> dict[str, Tensor]:
    """The head's survey of wrong classes `[n, c]`, of which each stands for several."""
    found = head.survey(wrong, samples) if head.surveys else {}
    return {name: GATHER[head.surveys[name]](values.to(wrong.dtype), copies) for name, values in found.items()}


def _reduced(reduction: Reduction, values: Tensor, copies: Tensor) -> Tensor:
    """A channel over wrong classes `[n, c]` of which each stands for several, `[n]`: merged with itself so often."""
    total = torch.full_like(values[:, 0], reduction.neutral)
    for column, count in zip(values.split(1, dim=1), copies.long().tolist(), strict=True):
        doubled = reduction.block(column)
        while count:
            total = reduction.merge(total, doubled) if count % 2 else total
            doubled, count = reduction.merge(doubled, doubled), count // 2
    return total
