"""Which images an epoch visits, and in what order: one file per sampler; each registers itself."""

from frtrain.data.samplers.base import SAMPLERS, Sampler
from frtrain.registry import import_modules

import_modules(__name__, __path__)

__all__ = ["SAMPLERS", "Sampler"]
