"""Colours of skin, hair, iris, lips and cloth, `float32 [3]` RGB in 0..255."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Colour = tuple[float, float, float]

SKIN_BY_MELANIN: NDArray[np.float64] = np.array(
    [
        (246, 214, 196),
        (238, 196, 170),
        (222, 174, 142),
        (196, 145, 110),
        (158, 108, 78),
        (118, 78, 56),
        (86, 56, 42),
    ],
    dtype=np.float64,
)
HAIR: dict[str, Colour] = {
    "black": (28, 24, 24),
    "dark brown": (52, 36, 28),
    "brown": (86, 58, 40),
    "chestnut": (112, 66, 40),
    "auburn": (134, 60, 34),
    "ginger": (182, 92, 40),
    "dark blond": (158, 120, 74),
    "blond": (206, 168, 106),
    "platinum": (232, 214, 176),
    "grey": (142, 140, 138),
    "white": (220, 218, 214),
}
IRIS: dict[str, Colour] = {
    "dark brown": (56, 34, 24),
    "brown": (98, 60, 34),
    "amber": (150, 98, 40),
    "hazel": (126, 108, 56),
    "green": (86, 128, 84),
    "blue": (84, 132, 178),
    "light blue": (132, 176, 206),
    "grey": (122, 136, 142),
}


def skin_colour(melanin: float, warmth: float) -> Colour:
    """Skin from `melanin` in [0, 1] (light to dark) and `warmth` in [-1, 1] (rosy to golden)."""
    stops = np.linspace(0, 1, len(SKIN_BY_MELANIN))
    red, green, blue = (float(np.interp(melanin, stops, SKIN_BY_MELANIN[:, channel])) for channel in range(3))
    return red - 2 * warmth, green + 2 * warmth, blue - 13 * warmth


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` where `share` is 0, `second` where it is 1."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def scaled(colour: Colour, factor: float) -> Colour:
    """Darker (`factor` < 1) or lighter, clipped to 0..255."""
    red, green, blue = (min(255.0, max(0.0, value * factor)) for value in colour)
    return red, green, blue
