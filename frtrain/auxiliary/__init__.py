"""Further losses on the embedding, added to the loss of the class centres: center loss, pair losses."""

from frtrain.auxiliary.base import AUXILIARIES, Auxiliary
from frtrain.registry import import_modules

import_modules(__name__, __path__)

__all__ = ["AUXILIARIES", "Auxiliary"]
