"""Where labelled faces come from: one file per kind of source; each registers itself."""

from frtrain.registry import import_modules

import_modules(__name__, __path__)
