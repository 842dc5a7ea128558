"""The head as a height field: depth towards the camera over the frontal plane, with its shading and landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.conditions import Expression, Light
from frtrain.data.synthetic.drawing import smooth
from frtrain.data.synthetic.identity import Hair, Head, Person

TEXELS_PER_UNIT = 64
LEFT, TOP, RIGHT, BOTTOM = -1.36, -2.1, 1.36, 1.9
COLUMNS = round((RIGHT - LEFT) * TEXELS_PER_UNIT)
ROWS = round((BOTTOM - TOP) * TEXELS_PER_UNIT)
X = (LEFT + (np.arange(COLUMNS) + 0.5) / TEXELS_PER_UNIT).astype(np.float32)
Y = (TOP + (np.arange(ROWS) + 0.5) / TEXELS_PER_UNIT).astype(np.float32)
TO_TEXELS: NDArray[np.float64] = np.array(
    [
        [TEXELS_PER_UNIT, 0, -LEFT * TEXELS_PER_UNIT - 0.5],
        [0, TEXELS_PER_UNIT, -TOP * TEXELS_PER_UNIT - 0.5],
    ],
    dtype=np.float64,
)
"""Face units to texel coordinates."""

OUTSIDE = -1.0
"""Height where there is no head."""

_JAW_DROP = 0.14
_SHADOW_REACH = (0.08, 0.16, 0.26, 0.40, 0.60)


@dataclass(frozen=True)
class Surface:
    """Height field of one person with one expression.

    Attributes:
        height: `float32 [ROWS, COLUMNS]` in face units, `OUTSIDE` beyond the outline.
        half_width: `float32 [ROWS]`, half the width of the outline, hair included; 0 above and below the head.
        landmarks: `float64 [5, 3]`: left eye, right eye, nose tip, left and right corner of the mouth.
    """

    height: NDArray[np.float32]
    half_width: NDArray[np.float32]
    landmarks: NDArray[np.float64]

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns that hold the head, with a margin of one texel where there is room."""
        rows = np.flatnonzero(self.half_width > 0)
        margin = int(np.ceil(self.half_width.max() * TEXELS_PER_UNIT)) + 2
        middle = COLUMNS // 2
        return (
            slice(max(0, int(rows[0]) - 1), min(ROWS, int(rows[-1]) + 2)),
            slice(max(0, middle - margin), min(COLUMNS, middle + margin)),
        )


def jaw_drop(expression: Expression) -> float:
    """How far an open mouth lowers the chin."""
    return _JAW_DROP * expression.mouth_open


def build_surface(person: Person, expression: Expression) -> Surface:
    """Head, hair and features of a person as depth."""
    half_width = _outline(person.head, person.hair, jaw_drop(expression))
    profile = _profile(person.head, person.hair, jaw_drop(expression))
    safe_width = np.maximum(half_width, 1e-3)
    across = np.minimum((X[None, :] / safe_width[:, None]) ** 2, 1.0)
    height = profile[:, None] * np.sqrt(1 - across * (0.45 + 0.55 * across))
    height += _bumps(person, expression)
    height[np.abs(X)[None, :] > half_width[:, None]] = OUTSIDE
    return Surface(height, half_width, _landmarks(person, expression, height))


def mouth_corners(person: Person, expression: Expression) -> NDArray[np.float64]:
    """Left and right corner in the frontal plane, `[2, 2]`."""
    mouth = person.mouth
    smile = expression.smile + mouth.rest_smile
    half = mouth.half_width * (1 + 0.18 * smile - 0.10 * expression.mouth_open)
    y = mouth.y - 0.11 * smile + 0.3 * jaw_drop(expression)
    return np.array([(-half, y - mouth.skew), (half, y + mouth.skew)])


def gaussians(spots: list[tuple[float, float, float, float, float]]) -> NDArray[np.float32]:
    """Sum of axis-aligned Gaussians `float32 [ROWS, COLUMNS]`, each (amplitude, x, deviation in x, y, deviation in y).

    One matrix product, by OpenCV: numpy's BLAS may split it over threads, and so round differently, from one process to
    the next.
    """
    amplitude, x, spread_x, y, spread_y = np.array(spots, dtype=np.float32).T[:, :, None]
    along_x = np.exp(-0.5 * ((X - x) / spread_x) ** 2)
    along_y = amplitude * np.exp(-0.5 * ((Y - y) / spread_y) ** 2)
    none = np.empty((0, 0), np.float32)
    return np.asarray(cv2.gemm(along_y, along_x, 1.0, none, 0.0, flags=cv2.GEMM_1_T), np.float32)


def height_at(height: NDArray[np.float32], x: float, y: float) -> float:
    """Height at the texel nearest to a point of the frontal plane."""
    column = int(np.clip((x - LEFT) * TEXELS_PER_UNIT, 0, COLUMNS - 1))
    row = int(np.clip((y - TOP) * TEXELS_PER_UNIT, 0, ROWS - 1))
    return max(0.0, float(height[row, column]))


def illumination(
    relief: NDArray[np.float32], light: Light, lamp_direction: NDArray[np.float64], gloss: float
) -> NDArray[np.float32]:
    """Light that a height field `[H, W]` sends to the camera, linear RGB `float32 [H, W, 3]`, for a white albedo.

    Lambert's cosine law with a soft terminator, ambient light dimmed in hollows, cast shadows by marching the height
    field towards the lamp, and a broad highlight.

    Args:
        relief: heights in face units, `TEXELS_PER_UNIT` apart.
        light: colours of lamp and ambient light.
        lamp_direction: unit vector `[3]` towards the lamp in the head's frame.
        gloss: strength of the highlight.
    """
    height = np.maximum(relief, 0.0)
    scale = TEXELS_PER_UNIT / 8
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale)
    towards_x, towards_y, towards_z = (np.float32(value) for value in lamp_direction)
    inverse_norm = 1 / np.sqrt(slope_x * slope_x + slope_y * slope_y + 1)
    cosine = (towards_z - slope_x * towards_x - slope_y * towards_y) * inverse_norm
    diffuse = np.clip((cosine + 0.2) / 1.2, 0, 1)
    diffuse *= 1 - 0.75 * _cast_shadow(height, lamp_direction)
    hollow = height - cv2.blur(cv2.blur(height, (15, 15)), (15, 15))
    ambient = np.clip(1 + 4.0 * hollow, 0.35, 1.1)
    highlight = np.maximum(cosine, 0) ** 2
    highlight *= highlight
    highlight = (0.22 * gloss) * highlight * highlight * highlight
    lamp = (diffuse + highlight)[..., None] * np.array(light.lamp, np.float32)
    lamp += ambient[..., None] * np.array(light.ambient, np.float32)
    return lamp


def _outline(head: Head, hair: Hair, drop: float) -> NDArray[np.float32]:
    volume = hair.volume
    sides = volume * (0.55 if hair.side_y > -0.5 else 0.0)
    low_sides = sides if hair.side_y > 0.9 else 0.35 * sides
    crown = head.crown_y - volume
    chin = head.chin_y + drop
    control = [
        (0.0, crown),
        ((head.temple_width + sides) * 0.34, crown + 0.035),
        ((head.temple_width + sides) * 0.72, crown + 0.22),
        ((head.temple_width + sides) * 0.96, crown + 0.58),
        ((head.temple_width + sides) * 1.01, crown + 0.95),
        (head.temple_width + sides, -0.25),
        (head.cheek_width + low_sides, 0.25),
        (head.jaw_width, head.jaw_y + 0.6 * drop),
        (head.chin_width + 0.10, chin - 0.10),
        (head.chin_width * 0.8, chin),
        (0.0, chin + 0.01),
    ]
    curve = smooth(control)
    return np.interp(Y, curve[:, 1], curve[:, 0], left=0.0, right=0.0).astype(np.float32)


def _profile(head: Head, hair: Hair, drop: float) -> NDArray[np.float32]:
    upper = np.clip(-Y / (hair.volume - head.crown_y), 0, 1)
    lower = np.clip(Y / (head.chin_y + drop + 0.02), 0, 1)
    rounding = np.sqrt(1 - upper**2.8) * (1 - 0.14 * lower**2) * np.sqrt(1 - lower**9)
    return (head.depth * rounding).astype(np.float32)


def _bumps(person: Person, expression: Expression) -> NDArray[np.float32]:
    """Nose, sockets, cheekbones, lips and chin, as height above the plain head."""
    head, eyes, nose, mouth = person.head, person.eyes, person.nose, person.mouth
    drop, smile = jaw_drop(expression), max(0.0, expression.smile)
    mouth_y = mouth.y + 0.3 * drop
    tip = nose.tip_y
    central = [
        # amplitude, x, deviation in x, y, deviation in y
        (nose.bridge, 0.0, nose.ridge_width, 0.0, 0.20),
        (nose.bridge * 0.6 + nose.hump, 0.0, nose.ridge_width, tip * 0.45, 0.14),
        (nose.projection * 0.55, 0.0, nose.ridge_width * 1.1, tip - 0.22, 0.15),
        (nose.projection, 0.0, nose.tip_size, tip - 0.03, nose.tip_size * 0.95),
        (-0.05, 0.0, 0.20, tip + 0.17, 0.05),
        (-0.025, 0.0, 0.035, (tip + mouth_y) / 2 + 0.06, 0.08),
        (0.035 + mouth.upper * 0.4, 0.0, mouth.half_width * 0.6, mouth_y - 0.05, 0.05),
        (0.035 + mouth.lower * 0.4, 0.0, mouth.half_width * 0.5, mouth_y + 0.08 + drop * 0.7, 0.06),
        (-0.045, 0.0, mouth.half_width * 0.7, mouth_y + 0.02, 0.025),
        (-0.05, 0.0, 0.22, mouth_y + 0.23 + drop * 0.7, 0.06),
        (head.chin_bump, 0.0, 0.17, head.chin_y - 0.2 + drop, 0.13),
    ]
    paired = [
        (0.13, nose.width * 0.78, 0.065, tip + 0.05, 0.08),
        (-eyes.depth, eyes.offset * 0.95, 0.22, eyes.height - 0.03, 0.13),
        (0.065, eyes.offset, 0.12, eyes.height, 0.085),
        (-0.05, eyes.offset - eyes.half_width - 0.03, 0.07, eyes.height + 0.02, 0.10),
        (head.brow_ridge, 0.42, 0.28, -person.brows.height + 0.02, 0.08),
        (head.cheekbone, 0.62, 0.20, 0.42, 0.15),
        (0.05 * smile, 0.50, 0.15, tip + 0.02, 0.14),
        (-0.035 * (0.4 + smile), nose.width + 0.16, 0.045, tip + 0.22, 0.16),
    ]
    mirrored = [(amplitude, -x, spread_x, y, spread_y) for amplitude, x, spread_x, y, spread_y in paired]
    return gaussians(central + paired + mirrored)


def _landmarks(person: Person, expression: Expression, height: NDArray[np.float32]) -> NDArray[np.float64]:
    eyes, nose = person.eyes, person.nose
    frontal = np.concatenate(
        [
            [(-eyes.offset, eyes.height), (eyes.offset, eyes.height), (0.0, nose.tip_y - 0.02)],
            mouth_corners(person, expression),
        ]
    )
    depths = [height_at(height, x, y) for x, y in frontal]
    return np.concatenate([frontal, np.array(depths)[:, None]], axis=1)


def _cast_shadow(height: NDArray[np.float32], lamp_direction: NDArray[np.float64]) -> NDArray[np.float32]:
    """How much of the lamp is hidden behind nearer relief, 0 to 1."""
    towards_x, towards_y, towards_z = (float(value) for value in lamp_direction)
    shadow = np.zeros_like(height)
    for reach in _SHADOW_REACH:
        shift = reach * TEXELS_PER_UNIT
        matrix = np.array([[1, 0, towards_x * shift], [0, 1, towards_y * shift]], dtype=np.float64)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        towards_lamp = cv2.warpAffine(height, matrix, height.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        np.maximum(shadow, (towards_lamp - height - reach * towards_z) * 12, out=shadow)
    return np.asarray(cv2.blur(np.minimum(shadow, 1), (5, 5)), np.float32)
