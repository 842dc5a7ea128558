"""Sources of labelled faces, augmentation, deterministic order and loading."""

from frtrain.data import folder, jitter, synthetic
from frtrain.data.source import SOURCES, Source

__all__ = ["SOURCES", "Source", "folder", "jitter", "synthetic"]
