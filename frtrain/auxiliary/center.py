"""Center loss: embeddings gather around the mean of their class."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from frtrain.auxiliary.base import AUXILIARIES, Auxiliary, unit
from frtrain.schema import NonNegative, Positive


@AUXILIARIES.register("center")
class CenterLoss(Auxiliary):
    """Center loss (Wen, Zhang, Li, Qiao, ECCV 2016).

        L = lambda/2 mean_i |x_i - c_{y_i}|^2
        c_j := c_j - alpha sum_{i: y_i = j} (c_j - x_i) / (1 + n_j)          n_j samples of class j in the batch

    x_i embedding, c_j a centre of class j of its own, not that of the classifier; no gradient reaches it from L.
    `paper`: the centres move by this rule after every step. `solver`: they are parameters and the sum, alpha times, is
    their gradient, so that learning rate, momentum and weight decay act on them. The released Caffe code does this,
    with alpha 1, lambda 0.008 and twice the usual weight decay.
    Defaults: lambda 0.003, alpha 0.5 (the paper); centres start uniform with a variance of 1/d (the released code).
    Known trouble: the paper trains softmax with it. Beside a loss on cosines, L also rules the length of x, which that
    loss leaves free; `normalised` takes it out. With `solver`, the gradient of the centres is not small (no lambda in
    it), and joint clipping (`trainer.clip_norm`) shortens that of the backbone with it. Centres need memory for C * d
    numbers on every process. With `trainer.accumulate` > 1 the rule of `paper` sees the last batch of a step.

    Args:
        weight: lambda.
        alpha: how fast centres follow.
        update: who moves the centres.
        normalised: take x at length 1, so that L is about direction alone. The paper does not.

    Attributes:
        centres: `[C, d]`, once set up.
    """

    centres: nn.Parameter

    def __init__(self, weight: NonNegative, alpha: Positive, update: Literal["paper", "solver"], normalised: bool):
        super().__init__()
        if update == "paper" and alpha > 1:
            raise ValueError(f"auxiliary.alpha={alpha}: the rule of the paper has alpha in (0, 1]")
        self.weight = weight
        self.alpha = alpha
        self.update = update
        self.normalised = normalised
        self._steps: tuple[Tensor, Tensor] | None = None

    def set_up(self, classes: int, embedding_size: int) -> None:
        """Make the centres."""
        # The same on every process, whatever each has drawn before.
        generator = torch.Generator().manual_seed(torch.initial_seed())
        bound = math.sqrt(3 / embedding_size)
        start = torch.empty(classes, embedding_size).uniform_(-bound, bound, generator=generator)
        # Not a buffer, even where no optimizer moves it: buffers are copied in every step, to undo a skipped one.
        self.centres = nn.Parameter(start, requires_grad=self.update == "solver")

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """L, a scalar."""
        known = (labels >= 0).to(embedding.dtype)
        rows = labels.clamp(min=0)
        own = self.centres[rows].to(embedding.dtype)
        towards = own.detach() - (unit(embedding) if self.normalised else embedding)
        loss = self.weight / 2 * (known * towards.square().sum(dim=1)).sum() / known.sum().clamp(min=1)
        if not self.training:
            return loss
        counts = known.new_zeros(len(self.centres)).index_add_(0, rows, known)
        steps = self.alpha * towards.detach() * (known / (1 + counts[rows]))[:, None]
        if self.update == "solver":
            pull = (steps * own).sum()  # its gradient is wanted, its value is not
            return loss + pull - pull.detach()
        self._steps = rows, steps
        return loss

    @torch.no_grad()
    def advance(self, applied: Tensor | None = None) -> None:
        """Move the centres of the last batch, unless the optimizer does or the step was skipped."""
        if self._steps is not None:
            rows, steps = self._steps
            if applied is not None:
                steps = torch.where(applied, steps, 0)
            steps = -steps.to(self.centres.dtype)
            if steps.is_cuda:
                # Sorts first and adds in the order of the samples, so that the copies of all processes stay the same;
                # index_add_ adds as its threads come. On a CPU it is the other way round.
                self.centres.index_put_((rows,), steps, accumulate=True)
            else:
                self.centres.index_add_(0, rows, steps)
            self._steps = None
