"""Label smoothing: a share of the target is spread over all classes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from frtrain.losses.base import Head
from frtrain.modifiers.base import Modifier, require_cross_entropy


class LabelSmoothing(Modifier):
    """Label smoothing (Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016, arXiv 1512.00567) on any cross-entropy.

        L = (1 - e) CE + e/C sum_j ( logsumexp(z) - z_j )
          = CE + e (1 - 1/C) z_y - e/C sum_{j != y} z_j

    z the scaled logits after their margin, C all classes, the own one included. e 0.1 in the paper; 0 is off.
    Known trouble: L is least where z_y - z_j = log(1 + (1 - e) C / e) for all j, and beyond that it pushes an embedding
    away from its centre. At s = 64, C = 10,000, e = 0.1 that is a gap of 0.18 in cosine, margin included: far less than
    a margin loss reaches. Where classes are sampled, the sum over wrong classes is estimated from those drawn.

    Args:
        inner: the loss.
        epsilon: e, in [0, 1).

    Raises:
        ValueError: the loss is not a cross-entropy.
    """

    terms = True

    def __init__(self, inner: Head[Any], epsilon: float):
        super().__init__(inner)
        require_cross_entropy(inner, f"modifiers.label_smoothing={epsilon}")
        self.epsilon = epsilon
        self.classes = 0

    def set_up(self, classes: int) -> None:
        """Remember C."""
        self.inner.set_up(classes)
        self.classes = classes

    def target_term(self, similarity: Tensor, row: Any) -> Tensor:
        """e (1 - 1/C) z_y, `[B] -> [B]`."""
        inner = self.inner
        term = self.epsilon * (1 - 1 / self.classes) * (inner.scale_of(row) * inner.target(similarity, row))
        return term + inner.target_term(similarity, row) if inner.terms else term

    def other_terms(self, similarity: Tensor, row: Any) -> Tensor:
        """-e/C z_j, `[B, c] -> [B, c]`."""
        inner, scale = self.inner, self.inner.scale_of(row)
        per_row = scale[:, None] if isinstance(scale, Tensor) and scale.dim() else scale
        term = -self.epsilon / self.classes * (per_row * inner.others(similarity, row))
        return term + inner.other_terms(similarity, row) if inner.terms else term
