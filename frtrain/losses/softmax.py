"""Softmax: the linear classifier."""

from __future__ import annotations

from torch import Tensor

from frtrain.losses.base import LOSSES, Head, NoRow


@LOSSES.register("softmax")
class Softmax(Head[NoRow]):
    """Plain softmax cross-entropy on a linear classifier: z_j = <w_j, x> + b_j.

        L = -log( exp(z_y) / sum_j exp(z_j) )

    x embedding, w_j centre of class j, b_j its bias, y the label; neither x nor w is normalised.
    Known trouble: it may lower the loss by lengthening x instead of turning it, so cosine comparison, which is what a
    face verifier does, is trained only indirectly. Papers on margins often compare with the variant without bias.

    Args:
        bias: learn b_j; it starts at 0.
    """

    geometry = "inner_product"

    def __init__(self, bias: bool):
        super().__init__()
        self.bias = bias

    def target(self, similarity: Tensor, row: NoRow) -> Tensor:
        """z_y = <w_y, x> + b_y, `[B] -> [B]`."""
        return similarity
