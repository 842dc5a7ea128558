"""What covers a face: scarf and hat painted on the head, glasses and hand placed in front of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.conditions import Occlusion
from frtrain.data.synthetic.drawing import Canvas, Points, blended, noise_field, smooth
from frtrain.data.synthetic.identity import Eyes, Person
from frtrain.data.synthetic.palette import Colour, scaled
from frtrain.data.synthetic.surface import COLUMNS, ROWS, Surface, X, Y, height_at


def paint_cloth(texture: NDArray[np.uint8], occlusion: Occlusion, rng: np.random.Generator) -> None:
    """Lay a scarf over the lower face or a hat over the forehead of `texture` `[ROWS, COLUMNS, 3]`, in place."""
    if occlusion.cover not in ("scarf", "hat"):
        return
    knit = noise_field(rng, (ROWS, COLUMNS), 3, 9) + 0.8 * noise_field(rng, (ROWS, COLUMNS), 9, 60)
    if occlusion.cover == "scarf":
        edge = 0.72 + 0.22 * occlusion.cover_extent - 0.12 * np.abs(X) + 0.08 * occlusion.cover_side * X
        inside = Y[:, None] - edge[None, :]
    else:
        edge = -0.95 + 0.30 * occlusion.cover_extent + 0.18 * X**2
        inside = edge[None, :] - Y[:, None]
    mask = (np.clip(inside * 30 + 0.5, 0, 1) * 255).astype(np.uint8)
    folds = np.array(occlusion.colour, np.float32) * (1 + 0.09 * knit[..., None])
    hem = 1 - 0.35 * np.exp(-((inside / 0.05) ** 2))
    colour = np.clip(folds * hem[..., None], 0, 255).astype(np.float32)
    texture[...] = blended(texture, colour, mask)


def draw_glasses(
    canvas: Canvas, person: Person, occlusion: Occlusion, surface: Surface, flatten: NDArray[np.float64]
) -> None:
    """Draw spectacles on the picture. `flatten` `[2, 3]` projects head coordinates to the canvas's units."""
    if occlusion.glasses == "none":
        return
    eyes = person.eyes
    front = height_at(surface.height, 0.0, eyes.height + 0.05) + 0.10
    width = {"thin": 0.022, "thick": 0.055, "dark": 0.035}[occlusion.glasses]
    frame = scaled(occlusion.colour, 0.45)
    for side in (-1, 1):
        rim = _rim(eyes, occlusion.glasses_shape, side, front)
        flat_rim = rim @ flatten.T
        if occlusion.glasses == "dark":
            canvas.fill(flat_rim, (18, 18, 22), 0.93)
        else:
            canvas.fill(flat_rim, (225, 235, 245), 0.07)
        canvas.stroke(np.concatenate([flat_rim, flat_rim[:1]]), frame, width)
        hinge = np.array([side * (eyes.offset + 0.34), eyes.height - 0.06, front - 0.05])
        ear = np.array([side * 0.99, eyes.height + 0.02, 0.0])
        towards_camera = flatten[0, 2] * side
        if towards_camera < 0.25:
            canvas.stroke(np.stack([hinge, ear]) @ flatten.T, frame, width)
    bridge = np.array(
        [(-0.14, eyes.height - 0.04, front), (0, eyes.height - 0.08, front + 0.02), (0.14, eyes.height - 0.04, front)]
    )
    canvas.stroke(smooth(bridge @ flatten.T), frame, width)


def draw_hand(canvas: Canvas, person: Person, occlusion: Occlusion, brightness: Colour) -> None:
    """Draw fingers that rest on one side of the chin or cheek. `brightness` is the light's factor per channel."""
    if occlusion.cover != "hand":
        return
    red, green, blue = (
        min(255.0, value * factor) for value, factor in zip(person.skin.colour, brightness, strict=True)
    )
    skin: Colour = (red, green, blue)
    side, reach = occlusion.cover_side, occlusion.cover_extent
    knuckles = np.array([side * 1.0, 2.0 - 0.5 * reach])
    for finger, length in enumerate((0.78, 0.92, 0.86, 0.66)):
        base = knuckles + (side * (0.18 * finger - 0.45), 0.05 * finger)
        tip = base + (-side * (0.45 - 0.17 * finger), -length)
        middle = (base + tip) / 2 + (side * 0.10, -0.05)
        line = smooth([base, middle, tip])
        canvas.stroke(line, scaled(skin, 0.55), 0.25, 1.0, 0.03)
        canvas.stroke(line, skin, 0.20, 1.0, 0.04)
    palm = [knuckles + (-0.75, -0.1), knuckles + (0.55, -0.1), knuckles + (0.5, 1.4), knuckles + (-0.6, 1.4)]
    canvas.fill(smooth(palm, closed=True), scaled(skin, 0.9), 1.0, 0.03)


def _rim(eyes: Eyes, roundness: float, side: int, front: float) -> Points:
    """Outline of one lens in the head's frame, `[N, 3]`: a superellipse from round to square."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    power = 2 / (2 + 3 * roundness)
    cos, sin = np.cos(angle), np.sin(angle)
    x = side * eyes.offset + 0.325 * np.sign(cos) * np.abs(cos) ** power
    y = eyes.height + 0.06 + (0.25 - 0.05 * roundness) * np.sign(sin) * np.abs(sin) ** power
    return np.stack([x, y, np.full_like(x, front) - 0.22 * (np.abs(x) - 0.14).clip(0) ** 2], axis=1)
