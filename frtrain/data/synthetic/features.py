"""Eyes, brows, nostrils and mouth, painted on the frontal plane as the expression has them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.conditions import Expression
from frtrain.data.synthetic.drawing import Canvas, Points, blended, ellipse, smooth
from frtrain.data.synthetic.identity import Eyes, Person
from frtrain.data.synthetic.palette import Colour, mix, scaled
from frtrain.data.synthetic.surface import TO_TEXELS, jaw_drop, mouth_corners

_SCLERA: Colour = (218, 210, 204)
_LASH: Colour = (34, 24, 22)
_MOUTH_INSIDE: Colour = (62, 20, 22)
_TEETH: Colour = (236, 230, 218)


def paint_features(texture: NDArray[np.uint8], person: Person, expression: Expression) -> None:
    """Draw everything that moves with the expression onto `texture` `[ROWS, COLUMNS, 3]`, in place."""
    canvas = Canvas(texture, TO_TEXELS)
    for side in (-1, 1):
        _paint_eye(canvas, person, expression, side)
        _paint_brow(canvas, person, expression, side)
    _paint_nose(canvas, person)
    _paint_mouth(canvas, person, expression)


def lid_curves(eyes: Eyes, lids: float, side: int) -> tuple[Points, Points]:
    """Upper and lower edge of the open eye, `[N, 2]` each, from the left corner to the right one."""
    position = np.linspace(-1, 1, 15)
    bulge = 1 - position**2
    inner_to_outer = position * side
    upper = -eyes.opening * 1.15 * lids * bulge**0.75 * (1 - 0.12 * inner_to_outer)
    lower = eyes.opening * 0.62 * min(1.0, 0.35 + 0.65 * lids) * bulge * (1 + 0.15 * inner_to_outer)
    x = eyes.offset * side + eyes.half_width * position
    slope = -np.tan(eyes.tilt) * eyes.half_width * inner_to_outer
    return (
        np.stack([x, eyes.height + upper + slope], axis=1),
        np.stack([x, eyes.height + lower + slope], axis=1),
    )


def _paint_eye(canvas: Canvas, person: Person, expression: Expression, side: int) -> None:
    eyes, skin = person.eyes, person.skin.colour
    lids = expression.lids * (1 - 0.2 * max(0.0, expression.smile))
    upper, lower = lid_curves(eyes, lids, side)
    almond = np.concatenate([upper, lower[::-1]])
    lid_skin = scaled(skin, 0.78)
    rest, _ = lid_curves(eyes, 1.0, side)
    canvas.fill(np.concatenate([rest - (0, 0.07), lower[::-1]]), lid_skin, 0.45, 0.07)
    _paint_eyeball(canvas, eyes, expression, side, almond)
    canvas.stroke(upper + (0, 0.012), scaled(_SCLERA, 0.4), 0.03, 0.45, 0.03)
    canvas.stroke(upper, mix(lid_skin, _LASH, 0.55 + 0.45 * eyes.lashes), 0.030 + 0.018 * eyes.lashes, 0.95)
    canvas.stroke(lower, mix(lid_skin, _LASH, 0.15 + 0.3 * eyes.lashes), 0.018, 0.7)
    if eyes.lashes > 0.6:
        corner = upper[-1] if side > 0 else upper[0]
        canvas.stroke([corner, corner + (side * 0.05, -0.035)], _LASH, 0.03, eyes.lashes)
    crease = rest[1:-1] - (0, 0.035 + 0.05 * (1 - eyes.hood))
    canvas.stroke(crease, scaled(skin, 0.55), 0.024, 0.75 - 0.45 * eyes.hood, 0.015)


def _paint_eyeball(canvas: Canvas, eyes: Eyes, expression: Expression, side: int, almond: Points) -> None:
    left, top = np.floor(almond.min(axis=0) @ canvas.to_pixels[:, :2] + canvas.to_pixels[:, 2]).astype(int) - 2
    right, bottom = np.ceil(almond.max(axis=0) @ canvas.to_pixels[:, :2] + canvas.to_pixels[:, 2]).astype(int) + 3
    region = canvas.pixels[top:bottom, left:right]
    to_region = canvas.to_pixels - np.array([[0, 0, left], [0, 0, top]])
    ball = Canvas(np.empty_like(region), to_region)
    ball.pixels[...] = np.array(_SCLERA, np.uint8)
    x = eyes.offset * side + 0.05 * expression.gaze_x
    y = eyes.height - 0.015 + 0.03 * expression.gaze_y
    radius = eyes.iris_radius
    ball.fill(ellipse(x, y, radius * 1.08, radius * 1.08), scaled(eyes.iris, 0.45))
    ball.fill(ellipse(x, y, radius * 0.88, radius * 0.88), eyes.iris)
    ball.fill(ellipse(x, y + radius * 0.35, radius * 0.6, radius * 0.4), scaled(eyes.iris, 1.35), 0.6, 0.03)
    ball.fill(ellipse(x, y, radius * 0.42, radius * 0.42), (10, 8, 10))
    ball.fill(ellipse(x - radius * 0.35, y - radius * 0.35, radius * 0.2, radius * 0.2, corners=8), (255, 255, 255))
    mask = np.zeros((*region.shape[:2], 3), np.uint8)
    Canvas(mask, to_region).fill(almond, (255, 255, 255))
    region[...] = blended(region, ball.pixels.astype(np.float32), mask[..., 0])


def _paint_brow(canvas: Canvas, person: Person, expression: Expression, side: int) -> None:
    brows, eyes = person.brows, person.eyes
    along = np.linspace(0, 1, 12)
    raised = 0.055 * expression.brow_raise
    frown = 0.05 * max(0.0, -expression.brow_raise) * (1 - along)
    spine_y = eyes.height - brows.height - raised + frown
    spine_y = spine_y - brows.arch * np.sin(np.pi * along**1.25) - brows.tilt * along
    x = side * (brows.inner + brows.length * along)
    thickness = brows.thickness * (0.75 + 0.5 * along - 1.15 * along**3)
    upper = np.stack([x, spine_y - thickness / 2], axis=1)
    lower = np.stack([x, spine_y + thickness / 2], axis=1)
    outline = np.concatenate([upper, lower[::-1]])
    canvas.fill(outline, brows.colour, brows.opacity * 0.55, 0.05)
    canvas.fill(outline, scaled(brows.colour, 0.85), brows.opacity * 0.7, 0.02)


def _paint_nose(canvas: Canvas, person: Person) -> None:
    nose, skin = person.nose, person.skin.colour
    shade = scaled(skin, 0.55)
    base = nose.tip_y + 0.10
    for side in (-1, 1):
        wing = [
            (side * nose.width * 0.88, nose.tip_y - 0.06),
            (side * nose.width * 1.08, nose.tip_y + 0.03),
            (side * nose.width * 1.02, base),
            (side * nose.width * 0.80, base + 0.035),
        ]
        canvas.stroke(smooth(wing), shade, 0.03, 0.45, 0.03)
        nostril = ellipse(side * nose.width * 0.47, base, nose.width * 0.26, 0.022 + 0.022 * nose.upturn, -0.35 * side)
        canvas.fill(nostril, scaled(skin, 0.25), 0.55 + 0.35 * nose.upturn, 0.02)
    canvas.fill(ellipse(0, base + 0.06, nose.width * 0.7, 0.03), shade, 0.4, 0.07)


def _paint_mouth(canvas: Canvas, person: Person, expression: Expression) -> None:
    mouth, skin = person.mouth, person.skin.colour
    (left_x, left_y), (right_x, right_y) = mouth_corners(person, expression)
    centre_y = mouth.y + 0.3 * jaw_drop(expression) + 0.035 * max(0.0, expression.smile)
    position = np.linspace(-1, 1, 21)
    bulge = 1 - position**2
    x = left_x + (right_x - left_x) * (position + 1) / 2
    corners_y = left_y + (right_y - left_y) * (position + 1) / 2
    line = corners_y + (centre_y - corners_y) * bulge
    stretch = 1 - 0.25 * max(0.0, expression.smile)
    teeth_showing = 0.13 * max(0.0, expression.smile - 0.4)
    gap = (0.30 * expression.mouth_open + teeth_showing) * bulge**0.8
    peak = 1 - mouth.bow * np.exp(-((position / 0.16) ** 2)) + 0.25 * np.exp(-(((np.abs(position) - 0.28) / 0.2) ** 2))
    upper_top = line - gap * 0.15 - mouth.upper * stretch * bulge**0.85 * peak
    upper_bottom = line - gap * 0.15
    lower_top = line + gap * 0.85
    lower_bottom = lower_top + mouth.lower * stretch * bulge**0.7

    def between(above: NDArray[np.float64], below: NDArray[np.float64]) -> Points:
        return np.concatenate([np.stack([x, above], axis=1), np.stack([x, below], axis=1)[::-1]])

    canvas.fill(between(upper_top, lower_bottom), mouth.colour, mouth.opacity * 0.5, 0.05)
    canvas.fill(between(upper_top, upper_bottom), scaled(mouth.colour, 0.88), mouth.opacity, 0.015)
    canvas.fill(between(lower_top, lower_bottom), scaled(mouth.colour, 1.06), mouth.opacity, 0.015)
    if gap.max() > 0.01:
        canvas.fill(between(upper_bottom, lower_top), _MOUTH_INSIDE, 1.0)
        teeth = upper_bottom + np.minimum(gap, 0.085) * 0.95
        canvas.fill(between(upper_bottom, teeth)[2:-2], _TEETH, 0.95, 0.01)
    seam = np.stack([x, upper_bottom], axis=1)
    canvas.stroke(seam, scaled(mix(skin, mouth.colour, 0.5), 0.42), 0.022, 0.85, 0.012)
    for corner_x, corner_y in ((left_x, left_y), (right_x, right_y)):
        canvas.fill(ellipse(corner_x, corner_y, 0.035, 0.025, corners=10), scaled(skin, 0.55), 0.5, 0.03)
    canvas.fill(ellipse(0, lower_bottom[10] + 0.06, 0.16, 0.025), scaled(skin, 0.65), 0.3, 0.06)
