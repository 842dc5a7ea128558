"""Photographs and aligned crops of synthetic people: framing, and the flaws of a camera."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from frtrain.alignment.transform import TEMPLATES, similarity_transform
from frtrain.data.images import write_png_or_jpeg
from frtrain.data.synthetic.conditions import Conditions, draw_conditions
from frtrain.data.synthetic.identity import Person, draw_person, generator
from frtrain.data.synthetic.scene import compose, render

RENDERER_VERSION = 1
"""Raised whenever a change of this package changes a pixel: it enters the fingerprint of the source and the cache."""

_FACE_CENTRE = np.array([0.0, 0.42])
CROP_SIZE = 112
_LUMA = (0.299, 0.587, 0.114)


def render_photograph(
    identity: Person, sample: Conditions, size: int = 250
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A square photograph of one face and its true landmarks.

    Args:
        identity: the person, from `draw_person`.
        sample: the conditions, from `draw_conditions`.
        size: width and height in pixels.

    Returns:
        RGB `uint8 [size, size, 3]`, and `float32 [5, 2]` x, y in pixels of left eye, right eye, nose tip, left and right
        mouth corner (left as seen in the image).
    """
    scene = compose(identity, sample)
    optics = sample.optics
    pixels_per_unit = size * optics.scale
    centre = (size - 1) / 2 + pixels_per_unit * np.array([optics.shift_x, optics.shift_y])
    camera = np.column_stack([np.eye(2) * pixels_per_unit, centre - pixels_per_unit * _FACE_CENTRE])
    pixels = _exposed(render(scene, camera, size), sample, pixels_per_unit)
    landmarks = scene.landmarks @ camera[:, :2].T + camera[:, 2]
    return pixels, landmarks.astype(np.float32)


def render_crop(identity: Person, sample: Conditions) -> NDArray[np.uint8]:
    """The same scene, taken directly in the frame of the aligned ArcFace crop, RGB `uint8 [112, 112, 3]`.

    The camera is the least-squares similarity from the landmarks, as a detector would have found them, to the template.
    """
    scene = compose(identity, sample)
    detected = scene.landmarks + np.array(sample.landmark_error)
    camera = np.asarray(similarity_transform(detected, TEMPLATES["arcface_112"]), dtype=np.float64)
    pixels_per_unit = float(np.sqrt(np.linalg.det(camera[:, :2])))
    return _exposed(render(scene, camera, CROP_SIZE), sample, pixels_per_unit)


def write_photographs(
    target: Path, identities: int, images_per_identity: int, seed: int, size: int = 250, first_identity: int = 0
) -> int:
    """Write `<target>/person-<identity>/<n>.jpg`; existing files are replaced. Returns the number of files.

    Raises:
        OSError: the folder cannot be written.
    """
    for identity in range(first_identity, first_identity + identities):
        folder = target / class_name(identity)
        folder.mkdir(parents=True, exist_ok=True)
        person = draw_person(seed, identity)
        for sample in range(images_per_identity):
            pixels, _ = render_photograph(person, draw_conditions(seed, identity, sample), size)
            write_png_or_jpeg(folder / f"{sample:03d}.jpg", pixels)
    return identities * images_per_identity


def class_name(identity: int) -> str:
    """Name of an identity by its number: `person-00042`."""
    return f"person-{identity:05d}"


def _exposed(pixels: NDArray[np.uint8], sample: Conditions, pixels_per_unit: float) -> NDArray[np.uint8]:
    """Blur, tone, noise and compression, in the order in which a camera adds them."""
    optics = sample.optics
    sigma = 0.35 + optics.blur * pixels_per_unit
    blurred = cv2.GaussianBlur(pixels, (0, 0), sigma)
    if optics.motion > 0:
        blurred = cv2.filter2D(blurred, -1, _motion_kernel(optics.motion * pixels_per_unit, optics.motion_angle))
    tone = (np.arange(256) / 255) ** optics.gamma * 255 * optics.gain
    toned = cv2.LUT(blurred, np.clip(tone, 0, 255).astype(np.uint8))
    saturation = optics.saturation * np.eye(3) + (1 - optics.saturation) * np.array(_LUMA)
    noise = generator(sample.texture_seed, 1).standard_normal(pixels.shape, dtype=np.float32)
    noisy = cv2.transform(toned, saturation).astype(np.float32) + noise * np.float32(optics.noise)
    return _compressed(np.clip(noisy, 0, 255).astype(np.uint8), optics.jpeg)


def _compressed(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Through JPEG and back."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(np.asarray(decoded), cv2.COLOR_BGR2RGB), np.uint8)


def _motion_kernel(length: float, angle: float) -> NDArray[np.float32]:
    """A line of `length` pixels at `angle` radians, summing to one."""
    size = 2 * int(np.ceil(length / 2)) + 3
    kernel = np.zeros((size, size), np.uint8)
    reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    middle = np.array([size // 2, size // 2], dtype=np.float64)
    start, end = (np.rint((middle + sign * reach) * 16).astype(int).tolist() for sign in (-1, 1))
    cv2.line(kernel, start, end, (255,), 1, cv2.LINE_AA, 4)
    return kernel.astype(np.float32) / kernel.sum()
