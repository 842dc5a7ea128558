from __future__ import annotations

import pytest
import torch
from facenet_pytorch.models.mtcnn import ONet, PNet, RNet

from frtrain.alignment.mtcnn.networks import face_probability, load_networks

CPU = torch.device("cpu")


def pixels(count: int, height: int, width: int) -> torch.Tensor:
    values = torch.randint(0, 256, (count, 4, height, width), generator=torch.Generator().manual_seed(height)).float()
    return values.contiguous(memory_format=torch.channels_last)


def as_theirs(values: torch.Tensor) -> torch.Tensor:
    return ((values[:, :3] - 127.5) * 0.0078125).contiguous()


@pytest.mark.parametrize(("height", "width"), [(12, 12), (13, 13), (14, 37), (60, 41)])
@torch.inference_mode()
def test_windows_have_the_probabilities_and_shares_of_facenet_pytorch(height: int, width: int) -> None:
    values = pixels(2, height, width)
    shares, probabilities = PNet()(as_theirs(values))
    windows = load_networks(CPU)[0](values)
    torch.testing.assert_close(windows[..., 2:], shares.permute(0, 2, 3, 1), rtol=0, atol=1e-5)
    probability = face_probability(windows.reshape(-1, 6)).view(windows.shape[:3])
    torch.testing.assert_close(probability, probabilities[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [1, 6, 45])
@torch.inference_mode()
def test_crops_have_the_probabilities_shares_and_points_of_facenet_pytorch(count: int) -> None:
    _, refinement, output = load_networks(CPU)
    for network, theirs, side in ((refinement, RNet(), 24), (output, ONet(), 48)):
        values = pixels(count, side, side)
        *shares, probabilities = theirs(as_theirs(values))
        expected = torch.cat([probabilities[:, 1:], *shares], dim=1)
        torch.testing.assert_close(network(values), expected, rtol=0, atol=1e-5)
