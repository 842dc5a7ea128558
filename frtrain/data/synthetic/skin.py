"""The colours of a person's skin and beard over the frontal plane: what no expression changes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.drawing import Canvas, blended, ellipse, noise_field, smooth
from frtrain.data.synthetic.identity import Person, generator
from frtrain.data.synthetic.palette import scaled
from frtrain.data.synthetic.surface import COLUMNS, ROWS, TO_TEXELS, X, Y, gaussians


@lru_cache(maxsize=2)
def complexion(person: Person) -> NDArray[np.uint8]:
    """Skin with redness, blotches, freckles, moles, wrinkles and beard, `uint8 [ROWS, COLUMNS, 3]`, read-only."""
    rng = generator(person.texture_seed, 0)
    colour = np.array(person.skin.colour, np.float32)
    blotches = noise_field(rng, (ROWS, COLUMNS), 22, 22) + 0.6 * noise_field(rng, (ROWS, COLUMNS), 5, 5)
    tone = colour * (1 + 0.018 * blotches[..., None])
    tone += _redness(person)[..., None] * np.array((12, -16, -12), np.float32)
    pixels = np.clip(tone, 0, 255).astype(np.uint8)
    canvas = Canvas(pixels, TO_TEXELS)
    _freckles(canvas, person, rng)
    _wrinkles(canvas, person)
    _beard(canvas, person, rng)
    for mole in person.skin.moles:
        dark = scaled(person.skin.colour, 0.32)
        canvas.fill(ellipse(mole.x, mole.y, mole.radius, mole.radius), dark, mole.opacity, 0.012)
    canvas.pixels.setflags(write=False)
    return canvas.pixels


def _redness(person: Person) -> NDArray[np.float32]:
    spots = [
        (1.0, -0.55, 0.22, 0.5, 0.2),
        (1.0, 0.55, 0.22, 0.5, 0.2),
        (0.9, 0.0, 0.13, person.nose.tip_y, 0.12),
        (0.4, 0.0, 0.2, 1.4, 0.12),
        (0.4, -0.98, 0.1, 0.3, 0.3),
        (0.4, 0.98, 0.1, 0.3, 0.3),
    ]
    return person.skin.redness * gaussians(spots)


def _freckles(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    brown = scaled(person.skin.colour, 0.66)
    for _ in range(round(130 * person.skin.freckles)):
        x, y = float(rng.normal(0, 0.42)), float(rng.normal(0.36, 0.24))
        radius = float(rng.uniform(0.010, 0.024))
        canvas.fill(ellipse(x, y, radius, radius, corners=8), brown, float(rng.uniform(0.15, 0.5)), 0.008)


def _wrinkles(canvas: Canvas, person: Person) -> None:
    dark = scaled(person.skin.colour, 0.62)
    age, nose, mouth, eyes = person.skin.wrinkles, person.nose, person.mouth, person.eyes
    for side in (-1, 1):
        fold = [
            (side * (nose.width + 0.02), nose.tip_y),
            (side * (nose.width + 0.13), nose.tip_y + 0.15),
            (side * (mouth.half_width + 0.10), mouth.y - 0.05),
            (side * (mouth.half_width + 0.09), mouth.y + 0.12),
        ]
        canvas.stroke(smooth(fold), dark, 0.035, 0.12 + 0.45 * age, 0.05)
        outer = side * (eyes.offset + eyes.half_width)
        bag = [
            (side * (eyes.offset - 0.16), eyes.height + 0.13),
            (side * eyes.offset, eyes.height + 0.22),
            (outer - side * 0.02, eyes.height + 0.14),
        ]
        canvas.stroke(smooth(bag), dark, 0.035, 0.5 * eyes.bags, 0.05)
        for spread in (-0.08, 0.0, 0.08):
            crow = [
                (outer + side * 0.05, eyes.height + spread * 0.5),
                (outer + side * 0.19, eyes.height + spread * 1.6),
            ]
            canvas.stroke(crow, dark, 0.018, 0.5 * age, 0.02)
    if age > 0.15:
        for y in (-0.88, -0.74, -0.60):
            line = [(-0.45, y + 0.03), (-0.2, y - 0.01), (0.0, y + 0.015), (0.2, y - 0.01), (0.45, y + 0.03)]
            canvas.stroke(smooth(line), dark, 0.02, 0.5 * age, 0.02)


def _beard(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    beard, mouth = person.beard, person.mouth
    if max(beard.full, beard.moustache) <= 0:
        return
    strands = noise_field(rng, (ROWS, COLUMNS), 7, 2)
    edge = beard.line - 0.75 * np.clip(np.abs(X) - 0.45, 0, 1) ** 1.2 + 0.22 * np.clip(0.4 - np.abs(X), 0, 1)
    grown = np.clip((Y[:, None] - edge[None, :]) * 9 + 0.25 * strands, 0, 1)
    bare = np.exp(-((X[None, :] / (mouth.half_width * 1.05)) ** 4) - ((Y[:, None] - mouth.y - 0.02) / 0.19) ** 4)
    lip_top = mouth.y - 0.10
    moustache = np.exp(-((X[None, :] / (mouth.half_width * 1.1)) ** 4) - ((Y[:, None] - lip_top) / 0.115) ** 4)
    opacity = np.maximum(grown * (1 - bare) * beard.full, moustache * beard.moustache)
    mask = np.clip(opacity * (0.9 + 0.10 * strands) * 255, 0, 250).astype(np.uint8)
    colour = np.array(beard.colour, np.float32) * (1 + 0.10 * strands[..., None])
    canvas.pixels[...] = blended(canvas.pixels, np.clip(colour, 0, 255).astype(np.float32), mask)
