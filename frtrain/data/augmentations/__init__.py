"""Augmentations beyond the basic ones: one file each; each registers itself."""

import os

from frtrain.registry import import_modules

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # at import it asks the network for its newest version

import_modules(__name__, __path__)
