"""What makes a person: shape, proportions, colours and marks, drawn from (seed, identity number).

Lengths are in *face units*: half the width of an average face, about 70 mm. The head's own frame has its origin between
the eyes, x to the right of the image, y down and z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.palette import HAIR, IRIS, Colour, mix, scaled, skin_colour

_PERSON_STREAM = 1
CONDITIONS_STREAM = 2


def generator(*words: int) -> np.random.Generator:
    """An independent random stream for a tuple of non-negative integers; nothing else enters."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


@dataclass(frozen=True)
class Head:
    """Outline and depth. Half widths at the temples, cheeks, jaw and chin; `*_y` are heights (down is positive)."""

    temple_width: float
    cheek_width: float
    jaw_width: float
    chin_width: float
    jaw_y: float
    chin_y: float
    crown_y: float
    depth: float
    cheekbone: float
    brow_ridge: float
    chin_bump: float
    ear_size: float
    ear_tilt: float


@dataclass(frozen=True)
class Eyes:
    """`offset`: half the distance between the centres. `tilt` in radians, outer corner up. `hood`: heavy upper lid."""

    offset: float
    height: float
    half_width: float
    opening: float
    tilt: float
    iris_radius: float
    iris: Colour
    hood: float
    depth: float
    lashes: float
    bags: float


@dataclass(frozen=True)
class Brows:
    """`height` above the eye centre, `arch` above the line of its ends, `tilt` outer end up."""

    height: float
    inner: float
    length: float
    thickness: float
    arch: float
    tilt: float
    opacity: float
    colour: Colour


@dataclass(frozen=True)
class Nose:
    """`tip_y` height of the tip, `bridge` its height at the root, `hump` along the ridge, `upturn` shows the nostrils."""

    tip_y: float
    width: float
    ridge_width: float
    projection: float
    bridge: float
    hump: float
    upturn: float
    tip_size: float


@dataclass(frozen=True)
class Mouth:
    """Height, half width and thickness of the lips at rest. `rest_smile`: corners up (or down) without expression."""

    y: float
    half_width: float
    upper: float
    lower: float
    bow: float
    rest_smile: float
    colour: Colour
    opacity: float
    skew: float


@dataclass(frozen=True)
class Hair:
    """`line_y` and `recession` shape the hairline, `side_y` how far down the sides reach, `length` the hair behind.

    `part` is where a parting lifts the hairline, with `sweep` to one side; `curl` in [0, 1] from straight to curly.
    """

    style: str
    colour: Colour
    line_y: float
    recession: float
    part: float
    sweep: float
    side_y: float
    inset: float
    volume: float
    length: float
    curl: float
    density: float
    streaks: float


@dataclass(frozen=True)
class Mark:
    """A mole: position, radius and opacity."""

    x: float
    y: float
    radius: float
    opacity: float


@dataclass(frozen=True)
class Skin:
    """Colour, redness of cheeks and nose, freckles (a share), wrinkles (by age, in [0, 1]) and moles."""

    colour: Colour
    redness: float
    freckles: float
    wrinkles: float
    gloss: float
    moles: tuple[Mark, ...]


@dataclass(frozen=True)
class Beard:
    """Opacities of full beard and moustache, `line` how high on the cheek it grows. Zero: shaven."""

    full: float
    moustache: float
    line: float
    colour: Colour


@dataclass(frozen=True)
class Person:
    """One identity. `texture_seed` fixes what is drawn as noise: freckles, strands, blotches."""

    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    hair: Hair
    skin: Skin
    beard: Beard
    texture_seed: int


def draw_person(seed: int, identity: int) -> Person:
    """The person of a number; equal arguments give equal persons everywhere."""
    rng = generator(_PERSON_STREAM, seed, identity)
    masculine = float(rng.beta(0.7, 0.7))
    age = float(rng.beta(1.3, 1.8))
    melanin = float(rng.uniform(0, 1) ** 1.15)
    hair_colour = _hair_colour(rng, melanin, age)
    skin = _skin(rng, melanin, age)
    return Person(
        head=_head(rng, masculine),
        eyes=_eyes(rng, masculine, melanin, age),
        brows=_brows(rng, masculine, hair_colour),
        nose=_nose(rng, masculine),
        mouth=_mouth(rng, masculine, skin.colour),
        hair=_hair(rng, masculine, age, hair_colour),
        skin=skin,
        beard=_beard(rng, masculine, hair_colour),
        texture_seed=int(rng.integers(2**31)),
    )


def _spread(rng: np.random.Generator, mean: float, deviation: float) -> float:
    """Normal, kept within two deviations so that every face stays plausible."""
    return mean + deviation * float(np.clip(rng.standard_normal(), -2.0, 2.0))


def _head(rng: np.random.Generator, masculine: float) -> Head:
    cheek = _spread(rng, 0.99, 0.075)
    return Head(
        temple_width=cheek * _spread(rng, 0.95, 0.035),
        cheek_width=cheek,
        jaw_width=cheek * _spread(rng, 0.70 + 0.11 * masculine, 0.06),
        chin_width=_spread(rng, 0.30 + 0.09 * masculine, 0.06),
        jaw_y=_spread(rng, 1.10, 0.08),
        chin_y=_spread(rng, 1.58 + 0.08 * masculine, 0.09),
        crown_y=_spread(rng, -1.50, 0.08),
        depth=_spread(rng, 1.02, 0.06),
        cheekbone=_spread(rng, 0.055, 0.03),
        brow_ridge=_spread(rng, 0.015 + 0.06 * masculine, 0.015),
        chin_bump=_spread(rng, 0.09, 0.035),
        ear_size=_spread(rng, 0.30, 0.04),
        ear_tilt=_spread(rng, 0.12, 0.06),
    )


def _eyes(rng: np.random.Generator, masculine: float, melanin: float, age: float) -> Eyes:
    brown = 0.25 + 0.75 * min(1.0, melanin * 2.2)
    names = list(IRIS)
    pick = int(rng.integers(0, 2)) if rng.random() < brown else int(rng.integers(1, len(names)))
    return Eyes(
        offset=_spread(rng, 0.445, 0.032),
        height=_spread(rng, 0.0, 0.03),
        half_width=_spread(rng, 0.205, 0.022),
        opening=_spread(rng, 0.118 - 0.012 * masculine, 0.02),
        tilt=_spread(rng, 0.05, 0.075),
        iris_radius=_spread(rng, 0.094, 0.008),
        iris=mix(IRIS[names[pick]], IRIS[names[int(rng.integers(len(names)))]], float(rng.uniform(0, 0.25))),
        hood=float(rng.beta(1.2, 1.6)),
        depth=_spread(rng, 0.10 + 0.03 * masculine, 0.03),
        lashes=float(np.clip(_spread(rng, 0.8 - 0.6 * masculine, 0.2), 0.1, 1.0)),
        bags=float(np.clip(_spread(rng, 0.1 + 0.5 * age, 0.2), 0, 1)),
    )


def _brows(rng: np.random.Generator, masculine: float, hair: Colour) -> Brows:
    return Brows(
        height=_spread(rng, 0.33 - 0.06 * masculine, 0.035),
        inner=_spread(rng, 0.19, 0.04),
        length=_spread(rng, 0.54, 0.045),
        thickness=_spread(rng, 0.062 + 0.045 * masculine, 0.018),
        arch=_spread(rng, 0.085 - 0.05 * masculine, 0.03),
        tilt=_spread(rng, 0.02, 0.06),
        opacity=float(rng.uniform(0.55, 0.95)),
        colour=scaled(mix(hair, (60, 45, 38), 0.35), float(rng.uniform(0.7, 0.95))),
    )


def _nose(rng: np.random.Generator, masculine: float) -> Nose:
    return Nose(
        tip_y=_spread(rng, 0.60, 0.055),
        width=_spread(rng, 0.245 + 0.03 * masculine, 0.04),
        ridge_width=_spread(rng, 0.105, 0.018),
        projection=_spread(rng, 0.33 + 0.03 * masculine, 0.055),
        bridge=_spread(rng, 0.11, 0.035),
        hump=_spread(rng, 0.0, 0.035),
        upturn=_spread(rng, 0.5, 0.25),
        tip_size=_spread(rng, 0.125, 0.02),
    )


def _mouth(rng: np.random.Generator, masculine: float, skin: Colour) -> Mouth:
    rosy = mix(skin, (176, 56, 66), float(rng.uniform(0.40, 0.85 - 0.30 * masculine)))
    return Mouth(
        y=_spread(rng, 1.02, 0.05),
        half_width=_spread(rng, 0.36, 0.042),
        upper=_spread(rng, 0.092, 0.027),
        lower=_spread(rng, 0.122, 0.032),
        bow=float(rng.uniform(0.05, 0.5)),
        rest_smile=_spread(rng, 0.1, 0.15),
        colour=scaled(rosy, float(rng.uniform(0.8, 1.0))),
        opacity=float(rng.uniform(0.65, 1.0)),
        skew=_spread(rng, 0.0, 0.018),
    )


_STYLES: dict[str, dict[str, tuple[float, float]]] = {
    "bald": {"line_y": (-1.9, -1.9), "side_y": (-1.9, -1.9), "volume": (0.0, 0.0), "density": (0.0, 0.0)},
    "buzz": {"line_y": (-1.05, -0.78), "side_y": (-0.05, 0.2), "volume": (0.01, 0.03), "density": (0.45, 0.8)},
    "crown": {"line_y": (-1.9, -1.7), "side_y": (-0.1, 0.25), "volume": (0.03, 0.08), "density": (0.8, 1.0)},
    "short": {"line_y": (-1.05, -0.75), "side_y": (0.0, 0.3), "volume": (0.06, 0.18), "density": (1.0, 1.0)},
    "quiff": {"line_y": (-1.05, -0.85), "side_y": (-0.1, 0.25), "volume": (0.18, 0.36), "density": (1.0, 1.0)},
    "fringe": {"line_y": (-0.62, -0.42), "side_y": (0.1, 0.8), "volume": (0.08, 0.2), "density": (1.0, 1.0)},
    "curls": {"line_y": (-0.95, -0.65), "side_y": (0.1, 0.5), "volume": (0.15, 0.42), "density": (1.0, 1.0)},
    "bob": {"line_y": (-1.0, -0.6), "side_y": (1.1, 1.4), "volume": (0.12, 0.25), "density": (1.0, 1.0)},
    "long": {"line_y": (-1.05, -0.75), "side_y": (1.7, 2.0), "volume": (0.08, 0.22), "density": (1.0, 1.0)},
    "tied": {"line_y": (-1.05, -0.85), "side_y": (-0.1, 0.15), "volume": (0.02, 0.07), "density": (1.0, 1.0)},
}
_MASCULINE_STYLES = ("bald", "buzz", "crown", "short", "short", "quiff", "quiff", "fringe", "curls", "long")
_FEMININE_STYLES = ("short", "fringe", "curls", "bob", "bob", "long", "long", "long", "tied", "tied")


def _hair(rng: np.random.Generator, masculine: float, age: float, colour: Colour) -> Hair:
    styles = _MASCULINE_STYLES if rng.random() < masculine else _FEMININE_STYLES
    style = styles[int(rng.integers(len(styles)))]
    ranges = _STYLES[style]
    chosen = {name: float(rng.uniform(*bounds)) for name, bounds in ranges.items()}
    lengths = {"bob": float(rng.uniform(1.2, 1.7)), "long": float(rng.uniform(2.0, 3.2))}
    loose = style in lengths
    return Hair(
        style=style,
        colour=colour,
        recession=max(0.0, _spread(rng, 0.10 + 0.2 * masculine * age, 0.12)),
        part=float(rng.uniform(-0.55, 0.55)),
        sweep=float(rng.choice([0.0, 1.0], p=[0.35, 0.65]) * rng.uniform(-0.45, 0.45)),
        inset=float(rng.uniform(0.76, 0.92) if loose else rng.uniform(0.86, 0.97)),
        length=lengths.get(style, 0.3),
        curl=float(rng.uniform(0.6, 1.0) if style == "curls" else rng.beta(1.0, 2.2)),
        streaks=float(rng.uniform(0.1, 0.6)),
        **chosen,
    )


def _hair_colour(rng: np.random.Generator, melanin: float, age: float) -> Colour:
    names = list(HAIR)
    lightest = 3 if melanin > 0.55 else 9
    pick = HAIR[names[int(rng.integers(0, lightest))]]
    if rng.random() < (age - 0.4) * 1.3:
        pick = mix(pick, HAIR[names[int(rng.integers(9, 11))]], float(rng.uniform(0.5, 1.0)))
    return scaled(pick, float(rng.uniform(0.85, 1.15)))


def _skin(rng: np.random.Generator, melanin: float, age: float) -> Skin:
    moles = tuple(
        Mark(
            x=float(rng.uniform(-0.8, 0.8)),
            y=float(rng.uniform(-0.75, 1.35)),
            radius=float(rng.uniform(0.018, 0.048)),
            opacity=float(rng.uniform(0.5, 0.95)),
        )
        for _ in range(int(rng.poisson(1.6)))
    )
    freckled = rng.random() < 0.35 * (1 - melanin)
    return Skin(
        colour=skin_colour(melanin, float(rng.uniform(-1, 1))),
        redness=float(rng.uniform(0.1, 1.0)) * (1 - 0.6 * melanin),
        freckles=float(rng.uniform(0.3, 1.0)) if freckled else 0.0,
        wrinkles=max(0.0, age - 0.3) / 0.7,
        gloss=float(rng.uniform(0.2, 1.0)),
        moles=moles,
    )


def _beard(rng: np.random.Generator, masculine: float, hair: Colour) -> Beard:
    grown = rng.random() < 0.75 * max(0.0, masculine - 0.35) / 0.65
    kinds: NDArray[np.float64] = np.array([(0.18, 0.2), (0.4, 0.45), (0.85, 0.85), (0.0, 0.8), (0.3, 0.75)])
    full, moustache = kinds[int(rng.integers(len(kinds)))] if grown else (0.0, 0.0)
    strength = float(rng.uniform(0.8, 1.1))
    return Beard(
        full=float(full) * strength,
        moustache=float(moustache) * strength,
        line=float(rng.uniform(0.62, 0.95)),
        colour=scaled(hair, 0.9),
    )
