"""Similarity of embeddings to a block of class centres, in the three geometries a head may ask for.

An engine calls `prepare` once per step and `similarity` once per block of centres.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from frtrain.losses.base import Geometry

SHORTEST = 1e-6
"""A vector shorter than this has no direction: cosine 0 to everything, and no gradient.

Dividing by a tiny length instead would send a gradient of that size, reversed, into the backbone.
"""


def inverse_length(vectors: Tensor) -> Tensor:
    """1 / |v| of each row, `[n, d] -> [n]`; 0 for rows shorter than `SHORTEST`."""
    length = torch.linalg.vector_norm(vectors, dim=1)
    return torch.where(length > SHORTEST, 1 / length.clamp(min=SHORTEST), 0.0)


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
    """Similarity of each sample to each centre of a block; larger is more alike.

    Args:
        geometry: `cosine`, `inner_product` (plus `bias`), or `euclidean` (minus the squared distance).
        prepared: `[B, d]` from `prepare`.
        centres: `[c, d]`, as learned.
        bias: `[c]`, for inner products only.

    Returns:
        `[B, c]`, in the dtype of the arguments. Cosines may leave [-1, 1] by rounding.
    """
    if geometry == "cosine":
        cosine: Tensor = _CosineToCentres.apply(prepared, centres)
        return cosine
    if geometry == "inner_product":
        return torch.nn.functional.linear(prepared, centres, bias)
    return -_squared_distance(prepared, centres)


def nearest_sub_centre(similarity: Tensor, centres_per_class: int) -> Tensor:
    """`[B, c * K] -> [B, c]`: the largest similarity among the K centres of a class, which are neighbouring columns."""
    if centres_per_class == 1:
        return similarity
    return similarity.unflatten(1, (-1, centres_per_class)).max(dim=2).values


def _squared_distance(embedding: Tensor, centres: Tensor) -> Tensor:
    # |x|^2 + |w|^2 - 2 <x, w> loses its digits far from the origin, so the origin is moved to the batch first.
    origin = embedding.detach().mean(dim=0)
    embedding, centres = embedding - origin, centres - origin
    squares = embedding.square().sum(dim=1)[:, None] + centres.square().sum(dim=1)
    return torch.addmm(squares, embedding, centres.T, alpha=-2).clamp(min=0)


class _CosineToCentres(Function):
    """<u, w> / |w| for unit vectors u `[B, d]` and centres w `[c, d]`.

    The gradient is written out, d cos / dw = (u - cos w / |w|) / |w|, so that no normalised copy of the centres is made
    or kept: with many classes and a small batch, that copy and its gradient cost more than the matrix products.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, centres: Tensor) -> Tensor:
        inverse = inverse_length(centres)
        cosine = (unit @ centres.T).mul_(inverse)
        ctx.save_for_backward(unit, centres, inverse, cosine)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        unit, centres, inverse, cosine = ctx.saved_tensors
        gradient = gradient * inverse
        to_unit = gradient @ centres if ctx.needs_input_grad[0] else None
        to_centres = None
        if ctx.needs_input_grad[1]:
            radial = torch.linalg.vecdot(gradient, cosine, dim=0) * inverse
            to_centres = torch.addcmul(gradient.T @ unit, centres, radial[:, None], value=-1)
        return to_unit, to_centres
