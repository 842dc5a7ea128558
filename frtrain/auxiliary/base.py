"""The contract of a further loss on the embedding."""

from __future__ import annotations

from torch import Tensor, nn

from frtrain.directions import inverse_length
from frtrain.registry import Registry


class Auxiliary(nn.Module):
    """A loss on the embeddings of the whole (global) batch, added to that of the classifier.

    It is computed outside autocast, in the precision of the classifier. Where several processes train together, each of
    them computes it alike from the whole batch: parameters and state must not depend on the process.
    """

    def set_up(self, classes: int, embedding_size: int) -> None:
        """Told once, before the optimizer is built and any state restored, how many classes and dimensions."""

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """The term that is added to the loss.

        Args:
            embedding: `[B, d]` in float32 or float64, as the backbone gives it. Carries gradient.
            labels: `int64 [B]`; samples with -1 have no identity and must not influence anything.

        Returns:
            A scalar, its weight included; 0 where no sample has an identity.
        """
        raise NotImplementedError

    def advance(self, applied: Tensor | None = None) -> None:
        """Commit the state of the last `forward`. Called after an optimizer step.

        Until then a `forward` leaves no trace; of several, the last one counts.

        Args:
            applied: bool scalar on the device, whether the step was taken; the state of a skipped one must be given up,
                without waiting for the device. None: it was.
        """


def unit(embedding: Tensor) -> Tensor:
    """Embeddings at length 1, `[B, d] -> [B, d]`; 0, without gradient, where there is no direction."""
    return embedding * inverse_length(embedding)[:, None]


AUXILIARIES: Registry[Auxiliary] = Registry("auxiliary")
