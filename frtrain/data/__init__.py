"""Sources of labelled faces, augmentation, deterministic order and loading."""

from frtrain.data import augmentations, sources, synthetic
from frtrain.data.source import SOURCES, Source

__all__ = ["SOURCES", "Source", "augmentations", "sources", "synthetic"]
