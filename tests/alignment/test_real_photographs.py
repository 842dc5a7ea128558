"""Against hand-made boxes and 68 landmarks of real photographs; prints the numbers of docs/alignment.md with -s."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from frtrain.alignment.detector import DETECTORS
from frtrain.commands.composition import compose_plain
from frtrain.data.images import read_image


@dataclass(frozen=True)
class Comparison:
    truths: int
    detections: int
    eye_distances: np.ndarray
    """Pixels, of each truth that was found."""
    errors: np.ndarray
    """Mean distance of the five points over the distance of the eyes, of each truth that was found."""

    def describe(self, at_least: float) -> str:
        """Number and errors of the faces found whose eyes are at least so many pixels apart."""
        errors = self.errors[self.eye_distances >= at_least]
        return (
            f"{len(errors)} found with eyes {at_least:.0f} or more pixels apart; point error / eye distance: "
            f"mean {errors.mean():.3f}, median {np.median(errors):.3f}, worst {errors.max():.3f}"
        )


def five_points(box: ElementTree.Element) -> np.ndarray:
    """Of the 68 landmarks of iBUG: the middle of each eye, the tip of the nose, the corners of the mouth."""
    parts = {int(p.attrib["name"]): (float(p.attrib["x"]), float(p.attrib["y"])) for p in box.iter("part")}
    landmarks = np.array([parts[index] for index in range(68)])
    return np.stack([landmarks[36:42].mean(0), landmarks[42:48].mean(0), landmarks[30], landmarks[48], landmarks[54]])


@pytest.fixture(scope="module")
def comparison(shared: Path) -> Comparison:
    folder = shared / "photos"
    detector = DETECTORS.build(
        compose_plain("align", ["source=photos", "target=crops"])["detector"], device=torch.device("cpu")
    )
    truths, detections, eye_distances, errors = 0, 0, [], []
    for image in ElementTree.parse(folder / "training_with_face_landmarks.xml").iter("image"):
        faces = detector.detect([read_image(folder / image.attrib["file"])])[0]
        detections += len(faces)
        for box in image.iter("box"):
            truths += 1
            truth = five_points(box)
            eye_distance = np.linalg.norm(truth[1] - truth[0])
            distances = [np.linalg.norm(face.points - truth, axis=1).mean() / eye_distance for face in faces]
            if distances and min(distances) < 0.5:
                errors.append(min(distances))
                eye_distances.append(eye_distance)
    result = Comparison(truths, detections, np.array(eye_distances), np.array(errors))
    print(f"\n{len(errors)} of {truths} faces found, {detections - len(errors)} detections beside them")
    print(result.describe(at_least=0), result.describe(at_least=20), sep="\n")
    return result


@pytest.mark.slow
def test_nearly_all_faces_of_real_photographs_are_found(comparison: Comparison) -> None:
    assert comparison.truths == 18
    assert len(comparison.errors) >= 16


@pytest.mark.slow
def test_landmarks_of_real_faces_are_within_a_tenth_of_the_eye_distance(comparison: Comparison) -> None:
    assert comparison.errors[comparison.eye_distances >= 20].mean() < 0.1


@pytest.mark.slow
def test_landmarks_of_the_smallest_real_faces_are_within_two_pixels(comparison: Comparison) -> None:
    small = comparison.eye_distances < 20
    assert (comparison.errors * comparison.eye_distances)[small].mean() < 2
