from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from frtrain.errors import DataError
from frtrain.evaluation.embed import embed_images, normalised
from frtrain.evaluation.identities import identities_report
from frtrain.evaluation.pairs import pairs_from_labels
from frtrain.evaluation.verification import pair_scores, verify, verify_source

IMAGES = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3)).astype(np.uint8)


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).float() - 100


def read(index: int) -> np.ndarray:
    return IMAGES[index]


@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_embeddings_come_in_order_whatever_the_batch_size(batch_size):
    embeddings = embed_images(flat, read, 23, batch_size, flip=False)
    expected = flat(torch.from_numpy(IMAGES).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(embeddings, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)


def test_flip_adds_the_mirror_image_before_normalising():
    embeddings = embed_images(flat, read, 23, 8, flip=True)
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    mirrored = torch.from_numpy(IMAGES[:, :, ::-1].copy()).permute(0, 3, 1, 2)
    expected = (flat(images) + flat(mirrored)).numpy()
    np.testing.assert_allclose(embeddings, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)


def test_network_gets_contiguous_uint8_batches_of_channels_first():
    seen = []

    def spy(images: torch.Tensor) -> torch.Tensor:
        seen.append((images.dtype, tuple(images.shape), images.is_contiguous()))
        return flat(images)

    embed_images(spy, read, 12, 8, flip=False)
    assert seen == [(torch.uint8, (8, 3, 8, 8), True), (torch.uint8, (4, 3, 8, 8), True)]


def test_at_most_two_batches_are_read_ahead_of_the_network():
    lock, reads, excess = threading.Lock(), [0], []

    def counting(index: int) -> np.ndarray:
        with lock:
            reads[0] += 1
        return IMAGES[index % 23]

    done = [0]

    def spy(images: torch.Tensor) -> torch.Tensor:
        excess.append(reads[0] - done[0])
        done[0] += len(images)
        return flat(images)

    embed_images(spy, counting, 100, 5, flip=False)
    assert max(excess) <= 10


def test_progress_counts_every_image():
    counts: list[int] = []
    embed_images(flat, read, 23, 10, flip=False, progress=counts.append)
    assert counts == [10, 10, 3]


def test_zero_embedding_stays_zero():
    embeddings = embed_images(lambda images: torch.zeros(len(images), 4), read, 5, 2, flip=True)
    np.testing.assert_array_equal(embeddings, np.zeros((5, 4)))


def test_tiny_and_huge_embeddings_are_normalised_to_length_one():
    rows = normalised(np.array([[1e-30, 0], [3e30, 4e30]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[1, 0], [0.6, 0.8]], rtol=1e-6)


def test_non_finite_embedding_names_its_image():
    def broken(images: torch.Tensor) -> torch.Tensor:
        embeddings = flat(images)
        embeddings[1, 0] = float("nan")
        return embeddings

    with pytest.raises(DataError, match="the embedding of face-1 holds NaN"):
        embed_images(broken, read, 5, 4, flip=False, describe=lambda index: f"face-{index}")


def test_images_of_different_sizes_are_refused_by_name():
    with pytest.raises(DataError, match="3: is 6x8 pixels, 0 is 8x8"):
        embed_images(flat, lambda index: IMAGES[index, :, : 6 if index == 3 else 8], 5, 5, flip=False)


def test_half_precision_embeddings_are_returned_as_float32():
    assert embed_images(lambda images: flat(images).bfloat16(), read, 5, 2, flip=False).dtype == np.float32


class Faces:
    """Ten identities of four images; an identity is a colour, an image its noise."""

    def __init__(self) -> None:
        self.classes = [f"id{k}" for k in range(10)]
        self.labels = np.repeat(np.arange(10), 4)
        self.fingerprint = "faces"
        self.read: list[int] = []

    def __len__(self) -> int:
        return 40

    def image(self, index: int) -> np.ndarray:
        self.read.append(index)
        random = np.random.default_rng(int(self.labels[index]))
        base = random.integers(50, 200, (8, 8, 3))
        noise = np.random.default_rng(100 + index).integers(-5, 6, (8, 8, 3))
        return (base + noise).astype(np.uint8)

    def describe(self, index: int) -> str:
        return f"face {index}"


def test_held_out_identities_that_are_easy_to_tell_apart_verify_perfectly():
    source = Faces()
    pairs = pairs_from_labels(source.labels, 60, seed=0)
    result, scores = verify_source(flat, source, pairs, batch_size=16, flip=True)
    assert result.accuracy.mean == 1
    assert scores[pairs.genuine].min() > scores[~pairs.genuine].max()


def test_each_image_of_a_source_is_embedded_once():
    source = Faces()
    pairs = pairs_from_labels(source.labels, 60, seed=0)
    verify_source(flat, source, pairs, batch_size=16, flip=False)
    assert sorted(source.read) == sorted({*pairs.left.tolist(), *pairs.right.tolist()})


def test_held_out_report_shows_the_pairs_that_validation_asked():
    source = Faces()
    pairs = pairs_from_labels(source.labels, 60, seed=3)
    _, scores = verify_source(flat, source, pairs, batch_size=16, flip=True)
    report = identities_report(flat, source, pairs, "held_out", "Held-out identities", batch_size=16, resamples=0)
    np.testing.assert_array_equal(report.scores, scores)
    np.testing.assert_array_equal(report.image(report.pairs.left[7]), source.image(int(pairs.left[7])))


def test_scores_are_cosines_of_the_paired_rows():
    embeddings = normalised(np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32))
    pairs = pairs_from_labels(np.repeat(np.arange(10), 4), 40, seed=0)
    expected = (embeddings @ embeddings.T)[pairs.left, pairs.right]
    np.testing.assert_allclose(pair_scores(embeddings, pairs), expected, atol=1e-6)


def test_constant_embeddings_verify_at_chance():
    pairs = pairs_from_labels(np.repeat(np.arange(10), 4), 40, seed=0)
    embeddings = np.full((40, 4), 0.5, dtype=np.float32)
    assert verify(embeddings, pairs).accuracy.mean == 0.5
