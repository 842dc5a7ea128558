"""Area resampling: every pixel of the result is the mean of the whole pixels that its square touches.

The bins are those of adaptive average pooling, which is `interpolate(mode="area")`: pixel i of m from n reads the pixels
from floor(i n / m) up to, not including, ceil((i + 1) n / m). A sum over a bin is four values of a summed-area table
(Crow 1984), however large the bin is, so that all crops of a batch cost a few gathers in place of a loop over crops.
The sums are integers. They, and so the means, are exactly those of adding up the pixels in float32 as long as a bin
holds fewer than 2^24 / 255 pixels, above which the float32 sum is the one that is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHANNELS = 4
"""Of a table: red, green, blue and one that nothing reads, because four 32-bit integers are moved as one element."""


def starts_and_ends(size: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """First pixel and the pixel behind the last of each bin.

    Args:
        size: `int64 [...]`, pixels along one side.
        bins: into how many overlapping bins the side is cut.

    Returns:
        Two `int64 [..., bins]`.
    """
    number = torch.arange(bins, device=size.device)
    size = size[..., None]
    return number * size // bins, -(-(number + 1) * size // bins)


@lru_cache(maxsize=1024)
def _bins(size: int, bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`starts_and_ends` of one size; photographs of a folder have few."""
    return starts_and_ends(torch.tensor(size, device=device), bins)


def summed_area_table(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Sums over all pixels above and to the left.

    Args:
        image: RGB `uint8 [H, W, 3]`.
        device: where the table is wanted.

    Returns:
        `int32 [H + 1, W + 1, 4]`, of which the first three channels mean something. Sums beyond 2^31 wrap around, and
        differences of them are right all the same.
    """
    if device.type == "cpu":
        return torch.from_numpy(cv2.integral(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), sdepth=cv2.CV_32S))
    return _added_up(torch.tensor(image, device=device))  # sooner done than a table, 16 times the image, gets there


def _added_up(pixels: Tensor) -> Tensor:
    """The table of `uint8 [H, W, 3]` by PyTorch's operations, on any device."""
    height, width = pixels.shape[:2]
    table = torch.zeros(height + 1, width + 1, CHANNELS, dtype=torch.int32, device=pixels.device)
    table[1:, 1:, :3] = pixels.cumsum(0, dtype=torch.int32).cumsum(1, dtype=torch.int32)
    return table


@dataclass(frozen=True)
class SameSize:
    """Images of one size that lie behind each other in `Tables`.

    Attributes:
        images: their numbers.
        height: pixels.
        width: pixels.
        first: where the table of the first one begins.
    """

    images: list[int]
    height: int
    width: int
    first: int


class Tables:
    """The summed-area tables of images of any sizes, in one row, so that one gather reads from all of them.

    Args:
        images: RGB `uint8 [H, W, 3]`, at least one.
        device: where they are to be.
    """

    def __init__(self, images: list[NDArray[np.uint8]], device: torch.device):
        by_size: dict[tuple[int, int], list[int]] = {}
        for number, image in enumerate(images):
            by_size.setdefault((image.shape[0], image.shape[1]), []).append(number)
        self.groups: list[SameSize] = []
        self._first = np.zeros(len(images), np.int64)
        self._stride = np.zeros(len(images), np.int64)
        position = 0
        for (height, width), numbers in by_size.items():
            self.groups.append(SameSize(numbers, height, width, position))
            area = (height + 1) * (width + 1)
            self._first[numbers] = position + area * np.arange(len(numbers))
            self._stride[numbers] = width + 1
            position += area * len(numbers)
        tables = [summed_area_table(images[number], device) for group in self.groups for number in group.images]
        # A complex128 is 16 bytes, the four sums of a pixel. Nothing is computed with it: it only is what index_select
        # moves in one piece, which is three times as fast as rows of three integers.
        flat = (
            tables[0].reshape(-1, CHANNELS)
            if len(tables) == 1
            else torch.cat([t.reshape(-1, CHANNELS) for t in tables])
        )
        self._sums = flat.view(torch.complex128)[:, 0]
        self.device = device

    def levels(self, group: SameSize, sizes: list[tuple[int, int]]) -> Iterator[Tensor]:
        """The images of a group at other sizes.

        Args:
            group: one of `groups`.
            sizes: (height, width) of each level.

        Returns:
            Of each level `float32 [N, 4, height, width]`, channels last, values 0 to 255; the fourth channel is unused.
        """
        count, rows, columns = len(group.images), group.height + 1, group.width + 1
        sums = self._sums[group.first : group.first + count * rows * columns].view(count, rows, columns)
        for height, width in sizes:
            top, bottom = _bins(group.height, height, self.device)
            left, right = _bins(group.width, width, self.device)
            bands = _difference(sums.index_select(1, bottom), sums.index_select(1, top))
            means = _difference(bands.index_select(2, right), bands.index_select(2, left))
            yield _means(means, bottom - top, right - left)

    def crops(self, images: NDArray[np.int64], corners: NDArray[np.int64], size: int) -> Tensor:
        """Rectangles of the images, resampled to squares.

        Args:
            images: `[N]`, the number of the image of each.
            corners: `[N, 4]`: left, top, right, bottom; within the image, right and bottom outside, none empty.
            size: side of the squares in pixels.

        Returns:
            `float32 [N, 4, size, size]`, channels last, values 0 to 255; the fourth channel is unused.
        """
        where = np.concatenate([self._first[images][:, None], self._stride[images][:, None], corners], axis=1)
        first, stride, left, top, right, bottom = torch.from_numpy(where).to(self.device).unbind(1)
        (y0, y1), (x0, x1) = starts_and_ends(bottom - top, size), starts_and_ends(right - left, size)
        rows = (first + top * stride + left)[:, None]
        above, below = ((rows + y * stride[:, None])[:, :, None] for y in (y0, y1))
        x0, x1 = x0[:, None, :], x1[:, None, :]

        def sums(y: Tensor, x: Tensor) -> Tensor:
            position = y + x
            return self._sums.index_select(0, position.reshape(-1)).view(position.shape)

        lower = _difference(sums(below, x1), sums(below, x0))
        upper = _difference(sums(above, x1), sums(above, x0))
        return _means(_difference(lower, upper), y1 - y0, (x1 - x0)[:, 0])


def _integers(sums: Tensor) -> Tensor:
    """`complex128 [..., W]` -> `int32 [..., W * 4]`, the same memory."""
    return torch.view_as_real(sums).flatten(-2).view(torch.int32)


def _difference(first: Tensor, second: Tensor) -> Tensor:
    """`first` less `second`, integer by integer, in the memory of `first`."""
    _integers(first).sub_(_integers(second))
    return first


def _means(sums: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Sums over the bins `complex128 [N, h, w]`, their `[..., h]` heights and `[..., w]` widths -> `float32 [N, 4, h, w]`."""
    count, height, width = sums.shape
    means = _integers(sums).float()
    means.div_(heights.float()[..., :, None]).div_(widths.float().repeat_interleave(CHANNELS, -1)[..., None, :])
    return means.view(count, height, width, CHANNELS).permute(0, 3, 1, 2)
