"""The three networks of MTCNN, for inference alone, arranged for speed.

The weights are those that facenet-pytorch carries (converted by David Sandberg from the authors' Caffe models). Three
things are arranged otherwise than there, none of which changes a result by more than the rounding of float32:
- channels last throughout, and the first layer padded to a multiple of 16 channels by filters of zeros, so that pooling
  and activation run over whole vectors (on AVX-512, pooling 28 channels takes 1.2 times as long as pooling 32, the
  activation of 10 channels 5 times as long as that of 16);
- the outputs of a network are one product with stacked weights;
- probabilities are computed only where they are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from frtrain.alignment.mtcnn.area import CHANNELS

_VECTOR = 16
"""Channels of a 512-bit register of float32."""


def _padded(weight: Tensor, dimension: int, size: int) -> Tensor:
    """Zeros appended along one dimension up to `size`."""
    missing = [0, 0] * (weight.dim() - 1 - dimension) + [0, size - weight.shape[dimension]]
    return functional.pad(weight, missing)


class _Trunk:
    """Convolutions, each with its channel-wise leaky activation (PReLU), with max-pooling after some.

    Args:
        state: the network's parameters by facenet-pytorch's names.
        pools: after each convolution the window of a pooling with stride 2, or 0.
        device: where it runs.
    """

    def __init__(self, state: Mapping[str, Tensor], pools: list[int], device: torch.device):
        self._layers: list[tuple[Tensor, Tensor, Tensor, int]] = []
        inputs = CHANNELS
        for number, pool in enumerate(pools, start=1):
            weight, bias = state[f"conv{number}.weight"], state[f"conv{number}.bias"]
            slope = state[f"prelu{number}.weight"]
            outputs = -(-len(weight) // _VECTOR) * _VECTOR
            weight = _padded(_padded(weight, 1, inputs), 0, outputs)
            weight = weight.to(device).contiguous(memory_format=torch.channels_last)
            bias, slope = (_padded(values, 0, outputs).to(device) for values in (bias, slope))
            self._layers.append((weight, bias, slope, pool))
            inputs = outputs

    def __call__(self, pixels: Tensor) -> Tensor:
        """`float32 [N, 4, H, W]`, values 0 to 255 -> `float32 [N, C, h, w]`. Overwrites `pixels`."""
        features = pixels.sub_(127.5).mul_(0.0078125)
        for weight, bias, slope, pool in self._layers:
            features = functional.prelu(functional.conv2d(features, weight, bias), slope)
            if pool:
                features = functional.max_pool2d(features, pool, 2, ceil_mode=True)
        return features


class ProposalNetwork:
    """Says of every window of 12 by 12 pixels, in steps of 2, whether it is a face and where exactly (PNet)."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device):
        self._trunk = _Trunk(state, [2, 0, 0], device)
        self._weight, self._bias = (
            torch.cat([state[f"conv4_{head}.{name}"] for head in (1, 2)]).to(device) for name in ("weight", "bias")
        )
        self._weight = self._weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, pixels: Tensor) -> Tensor:
        """The outputs of all windows of images.

        Args:
            pixels: `float32 [N, 4, H, W]`, values 0 to 255; overwritten. H and W at least 12.

        Returns:
            `float32 [N, h, w, 6]`: logits of "no face" and "face", then what is to be added to left, top, right and
            bottom as shares of the window.
        """
        return functional.conv2d(self._trunk(pixels), self._weight, self._bias).permute(0, 2, 3, 1)


class CropNetwork:
    """RNet or ONet: says of a crop whether it is a face, where exactly, and ONet also where its landmarks are.

    Args:
        state: the network's parameters by facenet-pytorch's names.
        pools: after each convolution the window of a pooling with stride 2, or 0.
        dense: number of the fully connected layer; that of the heads follows.
        heads: how many.
        batch: crops computed at a time, which bounds the memory and keeps activations in the cache.
        device: where it runs.
    """

    def __init__(
        self, state: Mapping[str, Tensor], pools: list[int], dense: int, heads: int, batch: int, device: torch.device
    ):
        self._trunk = _Trunk(state, pools, device)
        weight = state[f"dense{dense}.weight"]
        channels = len(state[f"conv{len(pools)}.weight"])
        side = round((weight.shape[1] / channels) ** 0.5)
        # Features were flattened as (x, y, channel) when the weights were made; channels last flattens (y, x, channel).
        weight = weight.view(len(weight), side, side, channels).transpose(1, 2).reshape(len(weight), -1)
        numbers = range(1, heads + 1)
        self._dense = (weight.to(device), state[f"dense{dense}.bias"].to(device))
        self._slope = state[f"prelu{dense}.weight"].to(device)
        self._heads = tuple(
            torch.cat([state[f"dense{dense + 1}_{head}.{name}"] for head in numbers]).to(device)
            for name in ("weight", "bias")
        )
        self._batch = batch

    def __call__(self, pixels: Tensor) -> Tensor:
        """The outputs for crops.

        Args:
            pixels: `float32 [N, 4, S, S]`, values 0 to 255; overwritten.

        Returns:
            `float32 [N, 5]` or `[N, 15]`: the probability of a face, four shares of the crop to add to left, top, right
            and bottom, and of ONet five x and five y as shares of the crop.
        """
        results = [self._outputs(part) for part in pixels.split(self._batch)]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _outputs(self, pixels: Tensor) -> Tensor:
        features = self._trunk(pixels).permute(0, 2, 3, 1).flatten(1)
        hidden = functional.prelu(functional.linear(features, *self._dense), self._slope)
        outputs = functional.linear(hidden, *self._heads)
        return torch.cat([face_probability(outputs)[:, None], outputs[:, 2:]], dim=1)


def face_probability(outputs: Tensor) -> Tensor:
    """`float32 [N, 2 or more]`, logits of "no face" and "face" first -> the probability `[N]` of a face."""
    return outputs[:, :2].softmax(1)[:, 1]


def load_networks(device: torch.device) -> tuple[ProposalNetwork, CropNetwork, CropNetwork]:
    """PNet, RNet and ONet with the weights of the package facenet-pytorch; nothing is downloaded."""
    from facenet_pytorch.models.mtcnn import ONet, PNet, RNet  # takes seconds, and only this detector needs it

    # The widest activation of a crop is 62 KiB (RNet) or 271 KiB (ONet): so many fit a core's cache.
    crops, closer_crops = (20, 5) if device.type == "cpu" else (512, 512)
    with torch.inference_mode():
        return (
            ProposalNetwork(PNet().state_dict(), device),
            CropNetwork(RNet().state_dict(), [3, 3, 0], dense=4, heads=2, batch=crops, device=device),
            CropNetwork(ONet().state_dict(), [3, 3, 2, 0], dense=5, heads=3, batch=closer_crops, device=device),
        )
