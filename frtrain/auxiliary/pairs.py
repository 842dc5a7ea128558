"""Losses on the pairs and triplets of a batch, from pytorch-metric-learning."""

from __future__ import annotations

import math
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from frtrain.auxiliary.base import AUXILIARIES, Auxiliary, unit
from frtrain.errors import ConfigError
from frtrain.schema import Positive

PairLoss = Literal[
    "TripletMarginLoss",
    "ContrastiveLoss",
    "MultiSimilarityLoss",
    "CircleLoss",
    "SupConLoss",
    "NTXentLoss",
    "IntraPairVarianceLoss",
    "GeneralizedLiftedStructureLoss",
    "FastAPLoss",
]
Miner = Literal["BatchHardMiner", "BatchEasyHardMiner", "MultiSimilarityMiner", "TripletMarginMiner", "PairMarginMiner"]


@AUXILIARIES.register("pairs")
class PairsLoss(Auxiliary):
    """Pair and triplet losses (Musgrave, Belongie, Lim, pytorch-metric-learning, 2020, arXiv 2008.09164).

        L = weight * loss( x_1 / |x_1|, ..., x_B / |x_B|; pairs or triplets chosen by the miner, or all )

    x_i embedding. Which losses and miners are offered is a fixed list: those without parameters, state or chance of
    their own, whose gradients are finite where two embeddings are the same or one is 0.
    Optional: `pip install "frtrain[pairs]"`.
    Known trouble: it only learns from identities with two images in one batch. In a permutation of all images that is
    rare where identities are many; then L is near 0 and does nothing. `sampler=m_per_class` puts them there.

    Args:
        loss: class of `pytorch_metric_learning.losses`.
        parameters: of its constructor; null: its own defaults.
        miner: class of `pytorch_metric_learning.miners`, with its defaults; null: all pairs or triplets.
        weight: factor on the loss.

    Raises:
        ConfigError: the package is not installed.
        ValueError: the loss has no such parameters.
    """

    def __init__(
        self, loss: PairLoss, parameters: dict[str, bool | int | float] | None, miner: Miner | None, weight: Positive
    ):
        super().__init__()
        self.weight = weight
        try:
            self.loss = getattr(_package("losses"), loss)(**(parameters or {}))
        except TypeError as error:
            reason = str(error).rpartition("__init__() ")[2]
            raise ValueError(f"auxiliary.parameters={parameters}: not those of {loss} ({reason})") from None
        self.miner: Any = getattr(_package("miners"), miner)() if miner is not None else None
        self._try_out(f"auxiliary.loss={loss} auxiliary.parameters={parameters}")

    @torch.no_grad()
    def _try_out(self, setting: str) -> None:
        """Compute the loss of four faces of two people.

        Raises:
            ValueError: it fails, or is not finite.
        """
        faces = unit(torch.tensor([[1.0, 0.1], [1.0, -0.2], [0.1, 1.0], [-0.3, 1.0]]))
        try:
            value = float(self.loss(faces, torch.tensor([0, 0, 1, 1])))
        except Exception as error:
            raise ValueError(f"{setting}: cannot be computed ({type(error).__name__}: {error})") from None
        if not math.isfinite(value):
            raise ValueError(f"{setting}: the loss of four ordinary faces is {value}")

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """L, a scalar."""
        known = labels >= 0
        direction, labels = unit(embedding[known]), labels[known]
        if not len(labels):
            return direction.sum()
        chosen = self.miner(direction, labels) if self.miner is not None else None
        loss: Tensor = self.weight * self.loss(direction, labels, chosen)
        return loss


def _package(module: str) -> ModuleType:
    try:
        return import_module(f"pytorch_metric_learning.{module}")
    except ImportError:
        raise ConfigError(
            'auxiliary=pairs needs pytorch-metric-learning, which is not installed: pip install "frtrain[pairs]"'
        ) from None
