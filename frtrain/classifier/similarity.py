"""Similarity of embeddings to a block of class centres, in the three geometries a head may ask for.

An engine calls `prepare` once per step and then either `similarity`, which autograd differentiates, or for each block of
centres `Block.forward` and `Block.backward`, which write gradients of centres where they belong and keep nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from frtrain.directions import inverse_length
from frtrain.losses.base import Geometry

Matmul = Literal["float32", "bf16_gradients", "bf16"]
"""Precision of the matrix products of a block: float32 (or wider, as the tensors are) throughout; similarities in
float32 and gradients in bfloat16, so that hard masks are those of float32; or everything in bfloat16 (but distances)."""


def prepare(geometry: Geometry, embedding: Tensor, length: float | Tensor | None = None) -> Tensor:
    """What `similarity` needs of the embeddings, `[B, d] -> [B, d]`.

    Args:
        geometry: unit vectors for cosines; otherwise the embedding as it is, or
        length: scaled to this length (a number or a scalar tensor), differentiably.
    """
    if geometry != "cosine" and length is None:
        return embedding
    unit = embedding * inverse_length(embedding)[:, None]
    return unit if geometry == "cosine" or length is None else unit * length


def similarity(geometry: Geometry, prepared: Tensor, centres: Tensor, bias: Tensor | None = None) -> Tensor:
    """Similarity of each sample to each centre; larger is more alike. Differentiable once.

    Args:
        geometry: `cosine`, `inner_product` (plus `bias`), or `euclidean` (minus the squared distance).
        prepared: `[B, d]` from `prepare`.
        centres: `[c, d]`, as learned.
        bias: `[c]`, for inner products only.

    Returns:
        `[B, c]`, in the dtype of the arguments. Cosines may leave [-1, 1] by rounding.
    """
    if geometry == "cosine":
        # Written out, so that no normalised copy of the centres is made or kept: with many classes and a small batch
        # that copy and its gradient cost more than the matrix products.
        cosine: Tensor = _CosineToCentres.apply(prepared, centres)
        return cosine
    if geometry == "inner_product":
        return torch.nn.functional.linear(prepared, centres, bias)
    origin = prepared.detach().mean(dim=0)
    return -_squared_distance(prepared - origin, centres - origin)


def similarity_to_own(geometry: Geometry, prepared: Tensor, centres: Tensor, bias: Tensor | None = None) -> Tensor:
    """Similarity of each sample to centres of its own, `[B, d]` and `[B, K, d] -> [B, K]`; `bias` is `[B, K]`."""
    if geometry == "euclidean":
        return -(prepared[:, None] - centres).square().sum(dim=2)
    product = torch.einsum("bd,bkd->bk", prepared, centres)
    if geometry == "cosine":
        return product * inverse_length(centres)
    return product if bias is None else product + bias


def nearest_sub_centre(similarity: Tensor, centres_per_class: int) -> Tensor:
    """`[B, c * K] -> [B, c]`: the largest similarity among the K centres of a class, which are neighbouring columns."""
    if centres_per_class == 1:
        return similarity
    return similarity.unflatten(1, (-1, centres_per_class)).max(dim=2).values


class Block:
    """Similarity to one block of centres at a time, differentiated by hand.

    Args:
        geometry: see `similarity`.
        prepared: `[B, d]`, without gradient.
        matmul: precision of the matrix products.
    """

    def __init__(self, geometry: Geometry, prepared: Tensor, matmul: Matmul = "float32"):
        self.geometry = geometry
        self.matmul = matmul
        # Squared distances lose their digits far from the origin, so it is moved to the batch.
        self._origin = prepared.mean(dim=0) if geometry == "euclidean" else prepared.new_zeros(())
        self._batch = prepared - self._origin if geometry == "euclidean" else prepared
        self._narrow = self._batch if matmul == "float32" else self._batch.bfloat16()

    @property
    def dtype(self) -> torch.dtype:
        """Of the similarities."""
        return self._batch.dtype

    def inverse(self, centres: Tensor) -> Tensor | None:
        """1 / length of the centres `[c]` where cosines are asked for, to be handed to `forward` and `backward`."""
        return inverse_length(centres) if self.geometry == "cosine" else None

    def forward(self, centres: Tensor, inverse: Tensor | None, bias: Tensor | None) -> Tensor:
        """`[c, d]`, `[c]` and `[c]` to `[B, c]`, a fresh tensor."""
        if inverse is not None:
            return self._product(centres).mul_(inverse)
        if self.geometry == "inner_product":
            product = self._product(centres)
            return product if bias is None else product.add_(bias)
        centres = centres - self._origin
        squares = self._batch.square().sum(dim=1)[:, None] + centres.square().sum(dim=1)
        return squares.sub_(self._product(centres), alpha=2).clamp_(min=0).neg_()

    def backward(
        self, gradient: Tensor, similarity: Tensor, centres: Tensor, inverse: Tensor | None, to_centres: Tensor
    ) -> Tensor:
        """From the gradient of the similarities to those of batch and centres.

        Args:
            gradient: `[B, c]`; may be overwritten.
            similarity: `[B, c]`, as `forward` gave it.
            centres: `[c, d]`.
            inverse: as `inverse` gave it.
            to_centres: `[c, d]`, is overwritten with the gradient of the centres.

        Returns:
            The block's part of the gradient of `prepared`, `[B, d]`.
        """
        batch = self._batch
        if inverse is not None:
            gradient.mul_(inverse)
            to_batch = self._times_centres(gradient, centres)
            self._times_batch(gradient, to_centres)
            # d cos / dw = (u - cos w / |w|) / |w|: what lies along the centre is taken out.
            radial = torch.linalg.vecdot(gradient, similarity, dim=0).mul_(inverse)
            to_centres.addcmul_(centres, radial[:, None], value=-1)
            return to_batch
        if self.geometry == "inner_product":
            self._times_batch(gradient, to_centres)
            return self._times_centres(gradient, centres)
        centres = centres - self._origin
        gradient.mul_(2)
        self._times_batch(gradient, to_centres)
        to_centres.addcmul_(centres, gradient.sum(dim=0)[:, None], value=-1)
        return self._times_centres(gradient, centres).addcmul_(batch, gradient.sum(dim=1)[:, None], value=-1)

    def _product(self, centres: Tensor) -> Tensor:
        if self.matmul == "bf16" and self.geometry != "euclidean":  # differences of squares need all their digits
            return (self._narrow @ centres.bfloat16().T).to(self._batch.dtype)
        return torch.mm(self._batch, centres.T)

    def _times_centres(self, gradient: Tensor, centres: Tensor) -> Tensor:
        if self.matmul == "float32":
            return gradient @ centres
        return (gradient.bfloat16() @ centres.bfloat16()).to(self._batch.dtype)

    def _times_batch(self, gradient: Tensor, out: Tensor) -> None:
        if self.matmul == "float32":
            torch.mm(gradient.T, self._batch, out=out)
        else:
            out.copy_(gradient.bfloat16().T @ self._narrow)


def _squared_distance(embedding: Tensor, centres: Tensor) -> Tensor:
    # |x|^2 + |w|^2 - 2 <x, w> loses its digits far from the origin, which the caller has moved to the batch.
    squares = embedding.square().sum(dim=1)[:, None] + centres.square().sum(dim=1)
    return torch.addmm(squares, embedding, centres.T, alpha=-2).clamp(min=0)


class _CosineToCentres(Function):
    """<u, w> / |w| for unit vectors u `[B, d]` and centres w `[c, d]`."""

    @staticmethod
    def forward(ctx: Any, unit: Tensor, centres: Tensor) -> Tensor:
        inverse = inverse_length(centres)
        cosine = Block("cosine", unit).forward(centres, inverse, None)
        ctx.save_for_backward(unit, centres, inverse, cosine)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        unit, centres, inverse, cosine = ctx.saved_tensors
        to_centres = torch.empty_like(centres)
        to_unit = Block("cosine", unit).backward(gradient.clone(), cosine, centres, inverse, to_centres)
        return to_unit, to_centres
