"""facenet-pytorch itself, for the few images in which the last bit of a float32 decides where a crop begins.

Its networks add up in another order than ours. That moves a box by a ten-thousandth of a pixel, except where a crop, which
begins at a whole pixel, then begins at the next one: by a pixel and more. No arrangement of memory but its own has its
last bits, so such images are searched by its own code.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.alignment.mtcnn.cascade import Found


class FacenetReferee:
    """`facenet_pytorch.MTCNN.detect` of one image.

    Args:
        thresholds, factor: see `Cascade`.
        device: where it computes.
    """

    def __init__(self, thresholds: list[float], factor: float, device: torch.device):
        from facenet_pytorch.models.mtcnn import MTCNN  # takes seconds, and only this detector needs it

        self._mtcnn = MTCNN(thresholds=thresholds, factor=factor, keep_all=True, device=device)

    def __call__(self, image: NDArray[np.uint8], min_face_size: int) -> Found:
        """The faces of an image `uint8 [H, W, 3]`, the largest first."""
        from facenet_pytorch.models.utils.detect_face import detect_face

        mtcnn = self._mtcnn
        boxes, points = detect_face(
            image, min_face_size, mtcnn.pnet, mtcnn.rnet, mtcnn.onet, mtcnn.thresholds, mtcnn.factor, mtcnn.device
        )
        rows, five = np.asarray(boxes[0], np.float32), np.asarray(points[0], np.float32)
        order = np.argsort((rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]))[::-1]
        return Found(rows[order, :4], rows[order, 4], five[order].reshape(-1, 5, 2))
