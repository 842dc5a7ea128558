"""What a margin loss needs that is written without thinking of memory, for comparison with published tables.

Such a head normalises all centres into a new tensor, multiplies, and lets autograd keep every matrix [B, C] on the way to the loss:
what most repositories do. No engine here does; `classifier=dense` comes nearest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from frtrain.planning.ledger import Ledger, without
from frtrain.planning.rehearsal import ACTIVATIONS, CENTRE_GRADIENTS, CENTRES, CLASSIFYING, Part


class PlainHead(nn.Module):
    """Centres `[C, d]`, a margin on the cosine to the own one, and torch's cross-entropy over all."""

    def __init__(self, classes: int, embedding_size: int):
        super().__init__()
        self.centres = nn.Parameter(torch.empty(classes, embedding_size))

    def forward(self, embedding: Tensor, labels: Tensor, precision: torch.dtype | None) -> Tensor:
        """`[B, d]` and `int64 [B]` to the mean loss, the product in `precision`, the rest in float32."""
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            cosine = F.linear(F.normalize(embedding), F.normalize(self.centres))
        cosine = cosine.float().clamp(-1, 1)
        margin = torch.zeros_like(cosine).scatter_(1, labels[:, None], 0.4)
        return F.cross_entropy(64 * (cosine - margin), labels)


def rehearse_plain_head(classes: int, embedding_size: int, batch: int, precision: torch.dtype | None) -> Part:
    """Forward and backward pass of a plain head.

    Args:
        classes: whose centres this process holds.
        embedding_size: d.
        batch: images that it compares with them.
        precision: of the product; None: float32.
    """
    with FakeTensorMode(), Ledger() as ledger:
        head = PlainHead(classes, embedding_size)
        ledger.enter(CENTRES, head.parameters())
        embedding = torch.empty(batch, embedding_size, requires_grad=True)
        labels = torch.zeros(batch, dtype=torch.int64)
        ledger.enter(ACTIVATIONS, [embedding, labels])
        given = ledger.live
        ledger.flops = 0
        with ledger.under(CLASSIFYING):
            loss = head(embedding, labels, precision)
            forward, between = ledger.take_peak(), ledger.live
            loss.backward()
            backward = ledger.take_peak()
            del loss
            embedding.grad = None
        assert head.centres.grad is not None
        ledger.enter(CENTRE_GRADIENTS, [head.centres.grad])
        after = ledger.live
    return Part(
        resident={CENTRES: given[CENTRES]},
        forward=without(forward, given),
        between=without(between, given),
        backward=without(backward, given),
        after=without(after, given),
        shapes={"centres": (classes, embedding_size)},
        flops=ledger.flops,
        sent={},
        name="plain",
    )
