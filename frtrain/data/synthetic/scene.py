"""A person under given conditions, seen through a camera: from seeds to a clean picture and its landmarks.

The camera is orthographic and given as an affine map `[2, 3]` from the frontal plane (face units) to pixels, so the same
scene can be taken as a whole photograph or straight as an aligned crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.data.synthetic.accessories import draw_glasses, draw_hand, paint_cloth
from frtrain.data.synthetic.conditions import Conditions, Light, Pose, any_colour
from frtrain.data.synthetic.drawing import Canvas, Points, blended, ellipse, smooth
from frtrain.data.synthetic.features import paint_features
from frtrain.data.synthetic.hair import back_colour, covers_ears, paint_hair
from frtrain.data.synthetic.identity import Person, generator
from frtrain.data.synthetic.palette import Colour
from frtrain.data.synthetic.skin import complexion
from frtrain.data.synthetic.surface import OUTSIDE, TO_TEXELS, Surface, Y, build_surface, illumination

_PIVOT = np.array([0.0, 0.5, 0.0])
_SLICES = 14


@dataclass(frozen=True)
class Scene:
    """A posed head with its surface. `landmarks` `float64 [5, 2]` are projected to face units, camera not applied."""

    person: Person
    conditions: Conditions
    surface: Surface
    rotation: NDArray[np.float64]
    landmarks: NDArray[np.float64]


def compose(person: Person, conditions: Conditions) -> Scene:
    """Pose the head; nothing is painted yet."""
    surface = build_surface(person, conditions.expression)
    rotation = rotation_matrix(conditions.pose)
    landmarks = ((surface.landmarks - _PIVOT) @ rotation.T + _PIVOT)[:, :2]
    return Scene(person, conditions, surface, rotation, landmarks)


def rotation_matrix(pose: Pose) -> NDArray[np.float64]:
    """Head coordinates to camera coordinates, `[3, 3]`: pitch first, then yaw, then roll."""
    (sin_yaw, sin_pitch, sin_roll) = np.sin((pose.yaw, pose.pitch, pose.roll))
    (cos_yaw, cos_pitch, cos_roll) = np.cos((pose.yaw, pose.pitch, pose.roll))
    pitch = np.array([[1, 0, 0], [0, cos_pitch, sin_pitch], [0, -sin_pitch, cos_pitch]])
    yaw = np.array([[cos_yaw, 0, sin_yaw], [0, 1, 0], [-sin_yaw, 0, cos_yaw]])
    roll = np.array([[cos_roll, -sin_roll, 0], [sin_roll, cos_roll, 0], [0, 0, 1]])
    return np.asarray(roll @ yaw @ pitch, dtype=np.float64)


def render(scene: Scene, camera: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Draw the scene, `uint8 [size, size, 3]` RGB.

    Args:
        scene: from `compose`.
        camera: `[2, 3]`, face units to pixels.
        size: width and height in pixels.
    """
    person, conditions, rotation = scene.person, scene.conditions, scene.rotation
    rng = generator(conditions.texture_seed, 0)
    brightness = _flat_brightness(conditions.light)
    pixels = _background(rng, size)
    body = Canvas(pixels, camera)
    head = Canvas(pixels, _head_camera(camera, rotation))
    flatten = rotation[:2]
    _draw_long_hair(head, person, flatten, brightness)
    _draw_body(body, person, conditions.clothes, brightness)
    _draw_back_of_head(head, scene, brightness)
    _draw_ears(head, person, rotation, brightness)
    texture = complexion(person).copy()
    paint_features(texture, person, conditions.expression)
    paint_hair(texture, person)
    paint_cloth(texture, conditions.occlusion, rng)
    rows, columns = scene.surface.window
    towards_lamp = rotation.T @ _towards_lamp(conditions.light)
    light = illumination(scene.surface.height[rows, columns], conditions.light, towards_lamp, person.skin.gloss)
    lit = np.minimum(texture[rows, columns] * np.sqrt(light), 255).astype(np.uint8)
    _draw_relief(pixels, scene, lit, head.to_pixels)
    draw_glasses(head, person, conditions.occlusion, scene.surface, flatten)
    draw_hand(body, person, conditions.occlusion, brightness)
    return pixels


def _head_camera(camera: NDArray[np.float64], rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Camera for points that were rotated about the origin, although the head turns about its pivot."""
    offset = (_PIVOT - rotation @ _PIVOT)[:2]
    return np.column_stack([camera[:, :2], camera[:, :2] @ offset + camera[:, 2]])


def _towards_lamp(light: Light) -> NDArray[np.float64]:
    across = np.cos(light.elevation)
    return np.array(
        [np.sin(light.azimuth) * across, -np.sin(light.elevation), np.cos(light.azimuth) * across], dtype=np.float64
    )


def _flat_brightness(light: Light) -> Colour:
    """The light on what is drawn without relief, as a factor per channel of display values."""
    facing = max(0.0, float(_towards_lamp(light)[2]))
    red, green, blue = (
        float(np.sqrt(0.8 * ambient + 0.55 * facing * lamp))
        for ambient, lamp in zip(light.ambient, light.lamp, strict=True)
    )
    return red, green, blue


def _lit(colour: Colour, brightness: Colour, factor: float = 1.0) -> Colour:
    red, green, blue = (min(255.0, a * b * factor) for a, b in zip(colour, brightness, strict=True))
    return red, green, blue


def _background(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """An out-of-focus scene: a coarse colour gradient with a few blurred shapes."""
    coarse = np.array(any_colour(rng)) + rng.uniform(-60, 60, (3, 3, 1)) + rng.uniform(-18, 18, (3, 3, 3))
    small = 48
    gradient = cv2.resize(coarse.astype(np.float32), (small, small), interpolation=cv2.INTER_LINEAR)
    pixels = np.clip(gradient, 0, 255).astype(np.uint8)
    unit = Canvas(pixels, np.array([[small, 0, 0], [0, small, 0]], dtype=np.float64))
    for _ in range(int(rng.integers(0, 6))):
        x, y, half_width, half_height = rng.uniform((0, 0, 0.03, 0.03), (1, 1, 0.3, 0.5))
        shape = ellipse(x, y, half_width, half_height, float(rng.uniform(0, 3)), corners=int(rng.choice([4, 20])))
        unit.fill(shape, any_colour(rng), float(rng.uniform(0.4, 1.0)))
    unfocused = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.6, 2.5)))
    return np.asarray(cv2.resize(unfocused, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _draw_long_hair(head: Canvas, person: Person, flatten: NDArray[np.float64], brightness: Colour) -> None:
    hair = person.hair
    if hair.length < 1.0:
        return
    width = person.head.cheek_width + 0.10 + 0.7 * hair.volume
    depth = -0.45
    half = [(width * 0.8, -0.9), (width, 0.0), (width * 1.04, hair.length * 0.6), (width * 0.92, hair.length)]
    outline = np.array([(x, y, depth) for x, y in half] + [(-x, y, depth) for x, y in half[::-1]])
    shadow = _lit(hair.colour, brightness, 0.72)
    head.fill(smooth(outline @ flatten.T, closed=True), shadow, 1.0, 0.03)
    for share in np.linspace(-0.95, 0.95, 13):
        strand = np.array([(share * x, y, depth) for x, y in half])
        tone = 0.62 + 0.5 * abs(np.sin(share * 17 + person.texture_seed % 7))
        head.stroke(smooth(strand @ flatten.T), _lit(hair.colour, brightness, tone), 0.06, 0.6, 0.05)


def _draw_body(body: Canvas, person: Person, clothes: Colour, brightness: Colour) -> None:
    neck_width = 0.42 + 0.28 * person.head.jaw_width
    neck = [(-neck_width, 0.8), (-neck_width, 1.9), (-1.1, 2.9), (1.1, 2.9), (neck_width, 1.9), (neck_width, 0.8)]
    skin = person.skin.colour
    body.fill(smooth(neck, closed=True), _lit(skin, brightness, 0.86))
    chin = person.head.chin_y
    body.fill(ellipse(0, chin - 0.02, neck_width * 1.1, 0.28), _lit(skin, brightness, 0.45), 0.75, 0.2)
    shoulders = [(-0.75, 2.05), (-1.5, 2.3), (-2.3, 2.6), (-2.6, 5.0), (2.6, 5.0), (2.3, 2.6), (1.5, 2.3), (0.75, 2.05)]
    collar = [(0.45, 2.25), (0.0, 2.55), (-0.45, 2.25)]
    outline = np.concatenate([smooth(shoulders), smooth(collar)])
    body.fill(outline, _lit(clothes, brightness, 0.9), 1.0, 0.02)
    body.stroke(smooth([(0.75, 2.05), *collar, (-0.75, 2.05)]), _lit(clothes, brightness, 0.6), 0.05, 0.8, 0.03)


def _draw_back_of_head(head: Canvas, scene: Scene, brightness: Colour) -> None:
    """Slices of the skull behind the silhouette, seen when the head turns."""
    width = scene.surface.half_width
    rows = np.flatnonzero((width > 0) & (Y < 0.75))[::6]
    outline = np.stack([width[rows], Y[rows]], axis=1)
    outline = np.concatenate([outline, outline[::-1] * (-1, 1)])
    colour = back_colour(scene.person)
    for depth in (-0.9, -0.6, -0.3, -0.1):
        shrink = np.sqrt(1 - (depth / 1.15) ** 2)
        level = np.column_stack([outline * shrink, np.full(len(outline), depth)])
        shade = 0.62 + 0.25 * shrink
        head.fill(level @ scene.rotation[:2].T, _lit(colour, brightness, shade), 1.0, 0.02)


def _draw_ears(head: Canvas, person: Person, rotation: NDArray[np.float64], brightness: Colour) -> None:
    if covers_ears(person.hair):
        return
    shape, skin = person.head, person.skin.colour
    for side in (-1, 1):
        if rotation[0, 2] * side > 0.3:
            continue
        flat = ellipse(0.0, 0.0, shape.ear_size * 0.42, shape.ear_size, side * shape.ear_tilt)
        inner = flat * 0.62
        for outline, factor in ((flat, 0.88), (inner, 0.62)):
            points = _ear_points(outline, side, shape.cheek_width)
            head.fill(points @ rotation[:2].T, _lit(skin, brightness, factor), 1.0, 0.02 if factor > 0.8 else 0.06)


def _ear_points(outline: Points, side: int, cheek_width: float) -> Points:
    """An ear stands out from the side of the head and leans back."""
    x = side * (cheek_width + 0.02) + outline[:, 0] * 0.75
    return np.stack([x, outline[:, 1] + 0.22, -0.05 - 0.6 * side * outline[:, 0]], axis=1)


def _draw_relief(
    pixels: NDArray[np.uint8], scene: Scene, texture: NDArray[np.uint8], head_camera: NDArray[np.float64]
) -> None:
    """Project the height field with `texture` (of its window) by marching each pixel's ray (relief mapping, Policarpo 2005)."""
    rows, columns = scene.surface.window
    height, rotation = scene.surface.height[rows, columns], scene.rotation
    plane_to_pixels = head_camera[:, :2] @ rotation[:2, :2]
    pixels_per_depth = head_camera[:, :2] @ rotation[:2, 2]
    nearest = float(height.max())
    left, top, right, bottom = _bounds(scene, plane_to_pixels, pixels_per_depth, head_camera[:, 2], nearest, pixels)
    if right <= left or bottom <= top:
        return
    shape = (right - left, bottom - top)
    to_texels = TO_TEXELS[:, :2] @ np.linalg.inv(plane_to_pixels)
    origin = to_texels @ ((left, top) - head_camera[:, 2]) + TO_TEXELS[:, 2] - (columns.start, rows.start)
    texels_per_depth = -to_texels @ pixels_per_depth

    depth = np.zeros(shape[::-1], np.float32)
    found = np.zeros(shape[::-1], bool)
    levels = np.linspace(nearest, 0.0, _SLICES)
    gap_before = np.full(shape[::-1], -1.0, np.float32)
    for level in levels:
        slice_to_texels = np.column_stack([to_texels, origin + texels_per_depth * level])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        gap = cv2.warpAffine(height, slice_to_texels, shape, flags=flags, borderValue=OUTSIDE) - np.float32(level)
        hit = (gap >= 0) & ~found
        crossing = level + (levels[0] - levels[1]) * gap / np.maximum(gap - gap_before, 1e-6)
        np.copyto(depth, crossing.astype(np.float32), where=hit)
        found |= hit
        gap_before = gap

    u, v = np.arange(shape[0], dtype=np.float32), np.arange(shape[1], dtype=np.float32)[:, None]
    matrix = to_texels.astype(np.float32)
    map_x = np.float32(origin[0]) + matrix[0, 0] * u + matrix[0, 1] * v
    map_y = np.float32(origin[1]) + matrix[1, 0] * u + matrix[1, 1] * v
    map_x = map_x + np.float32(texels_per_depth[0]) * depth
    map_y = map_y + np.float32(texels_per_depth[1]) * depth
    seen = cv2.remap(texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    coverage = cv2.blur(found.astype(np.uint8) * np.uint8(255), (3, 3))
    region = pixels[top:bottom, left:right]
    region[...] = blended(region, seen.astype(np.float32), coverage)


def _bounds(
    scene: Scene,
    plane_to_pixels: NDArray[np.float64],
    pixels_per_depth: NDArray[np.float64],
    shift: NDArray[np.float64],
    nearest: float,
    pixels: NDArray[np.uint8],
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that the head can reach."""
    width = scene.surface.half_width
    rows = np.flatnonzero(width > 0)
    widest = float(width.max())
    corners = np.array([(x, y) for x in (-widest, widest) for y in (Y[rows[0]], Y[rows[-1]])])
    flat = corners @ plane_to_pixels.T + shift
    points = np.concatenate([flat, flat + pixels_per_depth * nearest])
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + 2, pixels.shape[1::-1])
    return int(left), int(top), int(right), int(bottom)
