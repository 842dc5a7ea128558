"""Trained models as users consume them."""
