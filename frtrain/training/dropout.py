"""Dropout as a function of the sample: what is dropped does not depend on how many processes share a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from frtrain.losses.noise import hashed

STREAM = 3
"""Sets dropout apart from what else is drawn from the seed of a run."""

FIRST_FACTOR, SECOND_FACTOR = 0x7FEB352D, 0x846CA68B - 2**32
"""Multipliers of a 32-bit mixing function that were searched for their lack of bias (Wellons 2018, "lowbias32")."""


def _mixed(words: Tensor) -> Tensor:
    """Neighbouring `int32` words become unrelated ones, no two of them the same. Products wrap around modulo 2^32.

    Half the memory and a third of the time of `frtrain.losses.noise.hashed`; a compiler makes one loop of it.
    """
    words = (words ^ ((words >> 16) & 0xFFFF)) * FIRST_FACTOR
    words = (words ^ ((words >> 15) & 0x1FFFF)) * SECOND_FACTOR
    return words ^ ((words >> 16) & 0xFFFF)


class SampleDropout(nn.Dropout):
    """Dropout whose mask is a hash of (seed, layer, position of the sample in the run, element of the sample).

        y = x / (1 - p) where kept, else 0            kept with probability 1 - p

    No generator is read or moved. So a sample loses the same elements in whichever process and batch it comes, after a
    resume, and where the forward pass is repeated (activation checkpointing). The precision of p is 2^-32. With p = 0 and
    in evaluation mode nothing happens.

    Args:
        p: probability of a dropped element.
        seed: of the run, in [0, 2^63).
        layer: number of the module in its network.
        position: `int64` scalar tensor, of the first sample of the batch of this process; whoever owns it moves it.
    """

    def __init__(self, p: float, seed: int, layer: int, position: Tensor):
        super().__init__(p)
        stream = hashed(hashed(hashed(torch.tensor(seed)) + STREAM) + layer)
        self.keys = [int(word) for word in hashed(stream + torch.arange(3)).to(torch.int32)]
        # Not a buffer: buffers are copied between processes, and this one differs.
        self.position = position

    def forward(self, input: Tensor) -> Tensor:
        """`[b, ...] -> [b, ...]`, the samples being those at `position` and after it."""
        if not self.training or self.p == 0:
            return input
        if self.p == 1:
            return input * 0
        return input * (self.mask(input).to(input.dtype) / (1 - self.p))

    def mask(self, values: Tensor) -> Tensor:
        """`bool`, of the shape of `[b, ...]`: what is kept of these samples."""
        device, shape, (low_key, high_key, element_key) = values.device, values.shape[1:], self.keys
        rows = torch.arange(len(values), device=device) + self.position
        low, high = rows.to(torch.int32), (rows >> 32).to(torch.int32)
        of_rows = _mixed(_mixed(low + low_key) ^ _mixed(high + high_key)).view(-1, *[1] * len(shape))
        elements = torch.arange(shape.numel(), device=device, dtype=torch.int32)
        of_elements = _mixed(elements + element_key).view(1, *shape)
        if values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last):
            of_elements = of_elements.contiguous(memory_format=torch.channels_last)  # so that the mask is, too
        return _mixed(of_rows + of_elements) >= round(self.p * 2**32) - 2**31


def place_dropout(network: nn.Module, seed: int, device: torch.device) -> Tensor:
    """Make each `nn.Dropout` of a network a `SampleDropout`.

    Names and state of the network do not change. Other layers that draw (such as `Dropout2d`) are left alone.

    Args:
        network: changed in place; not itself a dropout.
        seed: of the run.
        device: of what the network is given.

    Returns:
        The position that all of them look at, an `int64` scalar on the device: of the first sample of the batch that this
        process is about to see. To be written to before each forward pass.
    """
    position = torch.zeros((), dtype=torch.int64, device=device)
    found = [(name, module) for name, module in network.named_modules() if type(module) is nn.Dropout]
    for layer, (name, module) in enumerate(found):
        parent, _, own = name.rpartition(".")
        placed = SampleDropout(module.p, seed, layer, position).train(module.training)
        setattr(network.get_submodule(parent), own, placed)
    return position
