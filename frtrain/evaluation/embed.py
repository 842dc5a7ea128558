"""Images to embeddings, in batches, with the images read ahead by threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from frtrain.errors import DataError

Embed = Callable[[torch.Tensor], torch.Tensor]
"""From `uint8 [B, 3, H, W]` RGB crops on the CPU to `float32 [B, d]` embeddings, of any length, on any device."""

ReadImage = Callable[[int], NDArray[np.uint8]]
Progress = Callable[[int], None]

READING_THREADS = 4

Result = TypeVar("Result")


def embed_images(
    embed: Embed,
    read: ReadImage,
    count: int,
    batch_size: int,
    flip: bool,
    progress: Progress | None = None,
    describe: Callable[[int], str] = str,
) -> NDArray[np.float32]:
    """Embed `count` images; no more than two batches of them are in memory at a time.

    With `flip`, the embedding of an image is the sum of its own and its mirror image's, before normalisation: the
    usual test-time augmentation of the field (InsightFace, CosFace). It costs twice the time.

    Args:
        embed: the network.
        read: image by index, `uint8 [H, W, 3]` RGB, all of one size; called from several threads.
        count: number of images.
        batch_size: images for one call of `embed`.
        flip: add the embedding of the mirror image.
        progress: called with the number of images that each batch completed.
        describe: names an image in errors.

    Returns:
        `float32 [count, d]` of length 1. An embedding of all zeros stays zero: its score with any other is 0.

    Raises:
        DataError: images differ in size, or an embedding holds NaN or infinity; names the first image.
    """
    embeddings: NDArray[np.float32] | None = None
    for indices, images in read_ahead(read, range(count), batch_size):
        _check_sizes(images, indices, describe)
        rows = embed_batch(embed, images, indices, flip, describe)
        if embeddings is None:
            embeddings = np.empty((count, rows.shape[1]), dtype=np.float32)
        embeddings[indices.start : indices.stop] = rows
        if progress:
            progress(len(rows))
    return np.empty((0, 0), dtype=np.float32) if embeddings is None else embeddings


def embed_batch(
    embed: Embed,
    images: Sequence[NDArray[np.uint8]],
    indices: Sequence[int],
    flip: bool,
    describe: Callable[[int], str] = str,
) -> NDArray[np.float32]:
    """Embeddings of one batch, `float32 [B, d]` of length 1; zeros stay zeros.

    Args:
        embed: the network.
        images: `uint8 [H, W, 3]` RGB, one or more, of one size.
        indices: of the images, for `describe`.
        flip: as `embed_images`.
        describe: names an image in errors.

    Raises:
        DataError: an embedding holds NaN or infinity; names the first image.
    """
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        embedding = embed(batch)
        if flip:
            embedding = embedding + embed(batch.flip(3))
        rows = embedding.to(torch.float32).cpu().numpy()
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise DataError(
            f"the embedding of {describe(indices[int(broken[0])])} holds NaN or infinity: the weights of the model have diverged"
        )
    return normalised(rows)


def read_ahead(read: Callable[[int], Result], indices: range, batch_size: int) -> Iterator[tuple[range, list[Result]]]:
    """What `read` returns for all indices, a batch at a time, in order; threads read the next one meanwhile."""
    batches = [indices[at : at + batch_size] for at in range(0, len(indices), batch_size)]
    with ThreadPoolExecutor(READING_THREADS) as pool:
        try:
            ahead: list[Future[Result]] = []
            for batch, following in zip_longest(batches, batches[1:], fillvalue=range(0)):
                current = ahead or [pool.submit(read, index) for index in batch]
                ahead = [pool.submit(read, index) for index in following]
                yield batch, [future.result() for future in current]
        finally:
            pool.shutdown(cancel_futures=True)


def normalised(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of `[N, d]` divided by their Euclidean length; zero rows stay zero."""
    wide = embeddings.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0).astype(np.float32)


def _check_sizes(images: Sequence[NDArray[np.uint8]], indices: range, describe: Callable[[int], str]) -> None:
    for index, image in zip(indices, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{describe(index)}: is {image.shape[1]}x{image.shape[0]} pixels, {describe(indices[0])} is "
                f"{images[0].shape[1]}x{images[0].shape[0]}; all crops must have one size"
            )
