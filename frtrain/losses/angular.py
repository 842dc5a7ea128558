"""Angles from cosines: arccos with a bounded slope, cos(theta + m) and cos(theta - m), and what to do at the ends."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor

Radians = Annotated[float, Interval(ge=0, le=math.pi)]
MarginGradient = Literal["exact", "detached"]
BeyondPi = Literal["continuous", "classic", "clip", "none", "easy"]


def sine(cosine: Tensor) -> Tensor:
    """sin(theta) = sqrt(1 - cos^2), any shape; 0 with zero gradient at and beyond cos = +-1.

    Inside the gradient -cos/sin is exact. It stays finite because 1 - |cos| cannot be smaller than one rounding step:
    at most 3 000 in float32.
    """
    square = (1 - cosine) * (1 + cosine)
    inside = square > 0
    return torch.where(inside, torch.where(inside, square, 1.0).sqrt(), 0.0)


def angle(cosine: Tensor, eps: float = 1e-4) -> Tensor:
    """theta = arccos(cos theta), any shape, in radians; finite, with a finite gradient, at and beyond cos = +-1.

    The slope of arccos is -1 / sin(theta), infinite at both poles. Where 1 - |cos| < eps, arccos goes on along its
    tangent, so the function stays continuous and falling, its gradient is that of its value, and no slope is steeper
    than 1 / sqrt(2 eps): 71 for 1e-4, 707 for 1e-6. The price is the value there: at a pole it is sqrt(eps / 2) away
    from 0 or pi, 0.007 for 1e-4, 0.0007 for 1e-6. Everywhere else it is arccos.

    Args:
        cosine: cos(theta); may leave [-1, 1] by rounding.
        eps: from what distance to +-1 the tangent is taken. Below 1e-6 float32 has too few steps left to matter.
    """
    inside = cosine.clamp(eps - 1, 1 - eps)
    steepest = 1 / math.sqrt(eps * (2 - eps))
    return inside.acos() - steepest * (cosine - inside)


def add_angle(cosine: Tensor, margin: float | Tensor, beyond_pi: BeyondPi, margin_gradient: MarginGradient) -> Tensor:
    """T(theta) = cos(theta + m), elementwise.

    Args:
        cosine: cos(theta), any shape.
        margin: m in radians, in [0, pi]; a number, or a tensor that broadcasts with `cosine` (a margin per sample).
        beyond_pi: where theta + m > pi, cos(theta + m) would rise again and reward the worst samples.
            `continuous`: cos(theta) - (1 - cos m), meets the curve in -1 (wespeaker).
            `classic`: cos(theta) - m sin m, with a jump to -1.117 for m = 0.5 (InsightFace MXNet, CurricularFace).
            `clip`: -1, where an exact gradient vanishes (AdaFace).
            `none`: cos(theta + m) all the same (the ArcFace paper, arcface_torch).
            `easy`: the margin only where theta < pi/2, cos(theta) elsewhere, with a jump of sin m between.
        margin_gradient: `exact`: dT/dcos = sin(theta + m) / sin(theta).
            `detached`: dT/dcos = 1, the margin shifts the value only (OpenSphere; arcface_torch since 2022-12). A
            margin tensor then gets no gradient either. Values are the same bit for bit.
    """
    margined = _cosine_of_sum(cosine, margin, beyond_pi)
    return with_slope_one(margined, cosine) if margin_gradient == "detached" else margined


def subtract_angle(cosine: Tensor, margin: float | Tensor, margin_gradient: MarginGradient) -> Tensor:
    """N(theta) = cos(max(theta - m, 0)), elementwise: how much nearer a wrong class is made to look.

    Without the bound at 0, N would fall again for theta < m. No arccos is taken.

    Args:
        cosine: cos(theta), any shape.
        margin: m in radians, in [0, pi]; a number, or a tensor that broadcasts with `cosine`.
        margin_gradient: `exact`: dN/dcos = sin(theta - m) / sin(theta), 0 where theta < m; it grows towards theta = pi,
            where it is finite for the reason given at `sine`. `detached`: 1 everywhere.
    """
    cos_m, sin_m = _cos_sin(margin)
    margined = torch.where(cosine < cos_m, cosine * cos_m + sine(cosine) * sin_m, 1.0)
    return with_slope_one(margined, cosine) if margin_gradient == "detached" else margined


def with_slope_one(value: Tensor, cosine: Tensor) -> Tensor:
    """`value` bit for bit, with the gradient of `cosine`; what `margin_gradient=detached` means."""
    return value.detach() + (cosine - cosine.detach())


def _cosine_of_sum(cosine: Tensor, margin: float | Tensor, beyond_pi: BeyondPi) -> Tensor:
    cos_m, sin_m = _cos_sin(margin)
    margined = cosine * cos_m - sine(cosine) * sin_m
    if beyond_pi == "none":
        return margined
    if beyond_pi == "easy":
        return torch.where(cosine > 0, margined, cosine)
    fallback: Tensor | float
    if beyond_pi == "continuous":
        fallback = cosine - (1 - cos_m)
    elif beyond_pi == "classic":
        fallback = cosine - margin * sin_m
    else:
        fallback = -1.0
    return torch.where(cosine > -cos_m, margined, fallback)


def _cos_sin(angle: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    if isinstance(angle, Tensor):
        return angle.cos(), angle.sin()
    return math.cos(angle), math.sin(angle)
