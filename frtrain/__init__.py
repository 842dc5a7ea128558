"""frtrain: end-to-end training of face recognition networks."""

__version__ = "0.1.0"
