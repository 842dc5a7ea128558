"""Losses as heads: what a loss does to similarities. One file per loss; `base` states the contract."""

from frtrain.losses import arcface, cosface, normface, softmax, sv_softmax
from frtrain.losses.base import LOSSES, Head

__all__ = ["LOSSES", "Head", "arcface", "cosface", "normface", "softmax", "sv_softmax"]
