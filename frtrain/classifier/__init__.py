"""The class-weight engine: owns the class centres and evaluates any head over all classes."""

from frtrain.classifier import automatic, chunked, dense
from frtrain.classifier.base import CLASSIFIERS, Classifier, Facts

__all__ = ["CLASSIFIERS", "Classifier", "Facts", "automatic", "chunked", "dense"]
