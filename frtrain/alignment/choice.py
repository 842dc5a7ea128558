"""Which of several faces a photograph is about."""

from __future__ import annotations

from collections.abc import Sequence

from frtrain.alignment.detector import Face

CENTRE_WEIGHT = 2.0


def choose_face(faces: Sequence[Face], width: int, height: int) -> int:
    """The index of the largest face, weighted towards the centre of the photograph.

    The score is that of David Sandberg's facenet, and of facenet-pytorch's `center_weighted_size`:
        area of the box - 2 * squared distance between the centres of box and photograph,
    both in square pixels, so it does not depend on the resolution. A bystander who is somewhat larger but at the
    edge loses against a face in the middle. Of equal scores the more confident face wins.

    Args:
        faces: at least one.
        width: of the photograph, pixels.
        height: of the photograph, pixels.

    Raises:
        ValueError: there is no face.
    """
    if not faces:
        raise ValueError("there is no face to choose")

    def score(index: int) -> tuple[float, float]:
        x1, y1, x2, y2 = faces[index].box
        offset_x, offset_y = (x1 + x2 - width) / 2, (y1 + y2 - height) / 2
        area = (x2 - x1) * (y2 - y1)
        return float(area - CENTRE_WEIGHT * (offset_x**2 + offset_y**2)), faces[index].confidence

    return max(range(len(faces)), key=score)
