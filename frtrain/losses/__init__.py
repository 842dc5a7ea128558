"""Losses as heads: what a loss does to similarities. One file per loss; `base` states the contract."""

from frtrain.losses.base import LOSSES, Head
from frtrain.registry import import_modules

import_modules(__name__, __path__)

__all__ = ["LOSSES", "Head"]
