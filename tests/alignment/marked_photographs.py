"""Photographs that say by their first pixels what a detector shall make of them, and that detector; for several test files."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from frtrain.alignment.crops import CropStyle
from frtrain.alignment.detector import Face
from frtrain.alignment.pipeline import Request, Summary, Watcher, align
from frtrain.alignment.report import Record
from frtrain.alignment.transform import TEMPLATES

STYLE = CropStyle(size=112, template="arcface_112", format="jpg", quality=95, no_face="skip")
FACELESS = 0
FAILING = 255
FACE = 9


class MarkedDetector:
    """Stands in for a network: the first pixel says whether there is a face; it lies where the template puts it."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def detect(self, images: list[np.ndarray]) -> list[list[Face]]:
        self.calls.append(len(images))
        if any(image[0, 0, 0] == FAILING for image in images):
            raise RuntimeError("out of memory")
        face = Face(box=np.array([20.0, 20, 90, 110]), points=TEMPLATES["arcface_112"].copy(), confidence=0.9)
        return [[] if image[0, 0, 0] == FACELESS else [face] for image in images]


@dataclass(frozen=True)
class LoggingDetector:
    """Writes the number of each photograph it searches into a file, and takes its time. Can be sent to other processes."""

    log: Path
    seconds: float = 0.0

    def __call__(self) -> LoggingDetector:
        return self

    def detect(self, images: list[np.ndarray]) -> list[list[Face]]:
        faces = MarkedDetector().detect(images)
        time.sleep(self.seconds * len(images))
        with self.log.open("a") as log:
            log.write("".join(f"{number_of(image)}\n" for image in images))
        return faces

    def searched(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []


@dataclass(frozen=True)
class LethalDetector:
    """Kills its process at the photograph of a number, as the kernel does when memory runs out."""

    number: int

    def __call__(self) -> LethalDetector:
        return self

    def detect(self, images: list[np.ndarray]) -> list[list[Face]]:
        if any(number_of(image) == self.number for image in images):
            os.kill(os.getpid(), 9)
        return MarkedDetector().detect(images)


class Forbidden:
    """A detector that must not be built."""

    def __call__(self) -> Any:
        raise AssertionError("the detector was built")


def photograph(value: int, size: tuple[int, int] = (112, 112), number: int = 0) -> np.ndarray:
    """Noise that no crop resembles by chance, marked by its first pixel and numbered by its second."""
    pixels = np.random.default_rng([value, number]).integers(0, 256, (*size, 3)).astype(np.uint8)
    pixels[0, 0] = value
    pixels[0, 1] = number // 65536, number // 256 % 256, number % 256
    return pixels


def number_of(image: np.ndarray) -> int:
    high, middle, low = (int(value) for value in image[0, 1])
    return high * 65536 + middle * 256 + low


def write(root: Path, photographs: dict[str, int]) -> Path:
    """Photographs by their first pixel, without loss whatever the extension."""
    for number, (name, value) in enumerate(photographs.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.fromarray(photograph(value, number=number)).save(file, format="PNG", compress_level=1)
    return root


def write_many(root: Path, identities: int = 6, images: int = 10) -> Path:
    """`person-03/7.png` and so on, every one with a face."""
    return write(root, {f"person-{a:02d}/{b}.png": FACE for a in range(identities) for b in range(images)})


def request(source: Path, target: Path, detector: Any = None, style: CropStyle = STYLE, **options: Any) -> Request:
    """`detector` is one, or makes one where it can be called."""
    detector = detector or MarkedDetector()
    options = {"batch_size": 4, "detector_settings": {"name": "marked"}, **options}
    return Request(source, target, style, detector if callable(detector) else lambda: detector, **options)


def run(
    source: Path,
    target: Path,
    detector: Any = None,
    style: CropStyle = STYLE,
    watcher: Watcher | None = None,
    **options: Any,
) -> Summary:
    return align(request(source, target, detector, style, **options), watcher)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class SignalAfter(Watcher):
    """Sends this process a signal after so many photographs."""

    def __init__(self, number: int, photographs: int):
        self.number = number
        self.left = photographs

    def advance(self, record: Record) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
