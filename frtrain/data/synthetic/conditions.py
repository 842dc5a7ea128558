"""What changes from one photograph of a person to the next, drawn from (seed, identity number, sample number)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.identity import CONDITIONS_STREAM, generator
from frtrain.data.synthetic.palette import Colour


@dataclass(frozen=True)
class Pose:
    """Rotation of the head in radians: `yaw` to the right of the image, `pitch` down, `roll` clockwise."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Expression:
    """`smile` in [-0.5, 1], `mouth_open` and `lids` (1: as wide as at rest) in [0, 1.2], brow raise, gaze in [-1, 1]."""

    smile: float
    mouth_open: float
    lids: float
    brow_raise: float
    gaze_x: float
    gaze_y: float


@dataclass(frozen=True)
class Light:
    """One lamp from `azimuth`, `elevation` (radians; 0, 0 is the camera) and an even ambient light, as linear RGB."""

    azimuth: float
    elevation: float
    lamp: Colour
    ambient: Colour


@dataclass(frozen=True)
class Occlusion:
    """What covers the face. `cover` is one of none, scarf, hat, hand; `glasses` one of none, thin, thick, dark."""

    glasses: str
    glasses_shape: float
    cover: str
    cover_side: float
    cover_extent: float
    colour: Colour


@dataclass(frozen=True)
class Optics:
    """Framing and the camera's flaws. `blur` in face units, `noise` in grey levels, `jpeg` a quality in 1..100."""

    scale: float
    shift_x: float
    shift_y: float
    blur: float
    motion: float
    motion_angle: float
    noise: float
    jpeg: int
    gain: float
    gamma: float
    saturation: float


@dataclass(frozen=True)
class Conditions:
    """One photograph. `landmark_error` `[5, 2]` in face units is what a detector would get wrong."""

    pose: Pose
    expression: Expression
    light: Light
    occlusion: Occlusion
    optics: Optics
    clothes: Colour
    landmark_error: tuple[tuple[float, float], ...]
    texture_seed: int


def draw_conditions(seed: int, identity: int, sample: int) -> Conditions:
    """The conditions of a photograph; equal arguments give equal conditions everywhere."""
    rng = generator(CONDITIONS_STREAM, seed, identity, sample)
    return Conditions(
        pose=Pose(
            yaw=_spread(rng, 0.26, 0.6),
            pitch=_spread(rng, 0.12, 0.27),
            roll=_spread(rng, 0.12, 0.30),
        ),
        expression=_expression(rng),
        light=_light(rng),
        occlusion=_occlusion(rng),
        optics=_optics(rng),
        clothes=any_colour(rng),
        landmark_error=tuple((float(x), float(y)) for x, y in rng.standard_normal((5, 2)) * 0.015),
        texture_seed=int(rng.integers(2**31)),
    )


def _spread(rng: np.random.Generator, deviation: float, limit: float) -> float:
    return float(np.clip(rng.standard_normal() * deviation, -limit, limit))


def any_colour(rng: np.random.Generator) -> Colour:
    """Any lightness, mostly muted."""
    lightness = float(rng.uniform(25, 225))
    red, green, blue = (float(value) for value in rng.normal(lightness, 8 + 28 * rng.random(), 3).clip(8, 245))
    return red, green, blue


def _expression(rng: np.random.Generator) -> Expression:
    talking = rng.random() < 0.35
    return Expression(
        smile=float(rng.choice([0.0, 1.0]) * rng.uniform(0.1, 1.0) + rng.uniform(-0.2, 0.15)),
        mouth_open=float(rng.beta(1.3, 2.5)) if talking else 0.0,
        lids=float(rng.uniform(0.05, 0.25)) if rng.random() < 0.04 else float(rng.uniform(0.7, 1.15)),
        brow_raise=_spread(rng, 0.4, 1.0),
        gaze_x=_spread(rng, 0.4, 1.0),
        gaze_y=_spread(rng, 0.25, 0.6),
    )


def _light(rng: np.random.Generator) -> Light:
    warmth = float(rng.uniform(-1, 1))
    strength = float(rng.uniform(0.4, 1.0))
    ambient = float(rng.uniform(0.15, 0.42))
    tint: NDArray[np.float64] = rng.uniform(-0.04, 0.04, 3)
    lamp = (strength * (1 + 0.16 * warmth), strength * (1 + 0.02 * warmth), strength * (1 - 0.20 * warmth))
    return Light(
        azimuth=float(rng.uniform(-1.25, 1.25)),
        elevation=float(rng.uniform(-0.35, 1.0)),
        lamp=lamp,
        ambient=(ambient * (1 + float(tint[0])), ambient * (1 + float(tint[1])), ambient * (1 + float(tint[2]))),
    )


def _occlusion(rng: np.random.Generator) -> Occlusion:
    glasses = str(rng.choice(["none", "thin", "thick", "dark"], p=[0.83, 0.07, 0.08, 0.02]))
    cover = str(rng.choice(["none", "scarf", "hat", "hand"], p=[0.88, 0.02, 0.06, 0.04]))
    return Occlusion(
        glasses=glasses,
        glasses_shape=float(rng.uniform(0, 1)),
        cover=cover,
        cover_side=float(rng.choice([-1.0, 1.0])),
        cover_extent=float(rng.uniform(0, 1)),
        colour=any_colour(rng),
    )


def _optics(rng: np.random.Generator) -> Optics:
    return Optics(
        scale=float(rng.uniform(0.185, 0.235)),
        shift_x=_spread(rng, 0.12, 0.3),
        shift_y=_spread(rng, 0.10, 0.25),
        blur=float(rng.beta(1.0, 3.0)) * 0.035,
        motion=float(rng.uniform(0.03, 0.10)) if rng.random() < 0.06 else 0.0,
        motion_angle=float(rng.uniform(0, np.pi)),
        noise=float(rng.beta(1.0, 2.5)) * 9,
        jpeg=int(rng.integers(40, 96)),
        gain=float(rng.uniform(0.8, 1.2)),
        gamma=float(rng.uniform(0.8, 1.25)),
        saturation=0.0 if rng.random() < 0.03 else float(rng.uniform(0.75, 1.2)),
    )
