from __future__ import annotations

import numpy as np
import pytest

from frtrain.alignment.choice import choose_face
from frtrain.alignment.detector import Face


def face(centre_x: float, centre_y: float, side: float, confidence: float = 0.9) -> Face:
    half = side / 2
    box = np.array([centre_x - half, centre_y - half, centre_x + half, centre_y + half])
    return Face(box=box, points=np.zeros((5, 2)), confidence=confidence)


def test_larger_of_two_faces_at_the_same_distance_is_chosen() -> None:
    assert choose_face([face(100, 125, 40), face(150, 125, 60)], 250, 250) == 1


def test_face_in_the_middle_beats_a_larger_one_at_the_edge() -> None:
    assert choose_face([face(40, 125, 90), face(125, 125, 70)], 250, 250) == 1


def test_much_larger_face_beats_a_small_one_in_the_middle() -> None:
    assert choose_face([face(90, 125, 140), face(125, 125, 30)], 250, 250) == 0


def test_choice_does_not_depend_on_the_resolution() -> None:
    faces = [face(70, 125, 90), face(125, 125, 45)]
    enlarged = [Face(box=one.box * 8, points=one.points, confidence=one.confidence) for one in faces]
    assert choose_face(faces, 250, 250) == choose_face(enlarged, 2000, 2000)


def test_more_confident_of_two_equal_boxes_is_chosen() -> None:
    assert choose_face([face(125, 125, 50, 0.8), face(125, 125, 50, 0.95)], 250, 250) == 1


def test_no_face_to_choose_from_is_an_error() -> None:
    with pytest.raises(ValueError, match="no face"):
        choose_face([], 250, 250)
