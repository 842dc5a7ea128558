"""Loggers, one file each: every file of this folder is imported, and its logger registers itself in `LOGGERS`."""

from frtrain.registry import import_modules
from frtrain.training.logbook import LOGGERS

import_modules(__name__, __path__)

__all__ = ["LOGGERS"]
