"""Hair on the frontal plane, and the colour of the parts of the head behind it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.drawing import blended, noise_field
from frtrain.data.synthetic.identity import Hair, Person, generator
from frtrain.data.synthetic.palette import Colour, mix
from frtrain.data.synthetic.surface import COLUMNS, ROWS, X, Y


@lru_cache(maxsize=2)
def hair_layer(person: Person) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Colour `float32 [ROWS, COLUMNS, 3]` and opacity `uint8 [ROWS, COLUMNS]` of the hair seen from the front."""
    hair = person.hair
    rng = generator(person.texture_seed, 1)
    strands = _strands(hair, rng)
    edge = _hairline(hair)
    ragged = (0.03 + 0.05 * hair.curl) * strands
    opacity = np.clip((edge[None, :] + ragged - Y[:, None]) * 22 + 0.5, 0, 1) * hair.density
    colour = np.array(hair.colour, np.float32) * (1 + (0.06 + 0.14 * hair.streaks) * strands[..., None])
    colour += 6 * hair.streaks * strands[..., None]
    return np.clip(colour, 4, 250).astype(np.float32), (opacity * 255).astype(np.uint8)


def paint_hair(texture: NDArray[np.uint8], person: Person) -> None:
    """Lay the hair over `texture` `[ROWS, COLUMNS, 3]`, in place. The rows it cannot reach are left alone."""
    if person.hair.density <= 0:
        return
    colour, opacity = hair_layer(person)
    rows = _rows_reached(person)
    texture[:rows] = blended(texture[:rows], colour[:rows], opacity[:rows])


def covers_ears(hair: Hair) -> bool:
    """Whether the hair at the sides hides the ears."""
    return hair.side_y > 0.6


def back_colour(person: Person) -> Colour:
    """Colour of the back of the head above the nape."""
    return mix(person.skin.colour, person.hair.colour, person.hair.density)


@lru_cache(maxsize=2)
def _rows_reached(person: Person) -> int:
    _, opacity = hair_layer(person)
    return int(np.flatnonzero(opacity.any(axis=1)).max(initial=-1)) + 1


def _hairline(hair: Hair) -> NDArray[np.float32]:
    """Height of the lower edge of the hair for every column."""
    side = np.abs(X)
    line = hair.line_y + 0.5 * hair.sweep * np.clip((X - hair.part) * 1.6, -1, 1)
    parted = 0.22 * np.exp(-(((X - hair.part) / 0.16) ** 2)) * (hair.style not in ("fringe", "buzz", "bald", "crown"))
    temples = hair.recession * np.exp(-(((side - 0.52) / 0.2) ** 2))
    rounded = 0.30 * np.clip(side / hair.inset, 0, 1) ** 4
    front = line - parted - temples + rounded
    beside = np.clip((side - hair.inset) / 0.10 + 0.5, 0, 1)
    beside = beside * beside * (3 - 2 * beside)
    return (front + (hair.side_y - front) * beside).astype(np.float32)


def _strands(hair: Hair, rng: np.random.Generator) -> NDArray[np.float32]:
    straight = noise_field(rng, (ROWS, COLUMNS), 60, 2.2) + 0.5 * noise_field(rng, (ROWS, COLUMNS), 24, 5)
    curly = noise_field(rng, (ROWS, COLUMNS), 9, 8) + 0.5 * noise_field(rng, (ROWS, COLUMNS), 4, 4)
    return np.asarray((1 - hair.curl) * straight + hair.curl * curly, np.float32)
