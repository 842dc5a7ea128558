"""The class-weight engine: owns the class centres and evaluates any head over all classes."""

from frtrain.classifier import dense
from frtrain.classifier.base import CLASSIFIERS, Classifier, Facts

__all__ = ["CLASSIFIERS", "Classifier", "Facts", "dense"]
