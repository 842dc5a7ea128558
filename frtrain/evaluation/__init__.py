"""Verification protocols, metrics, pictures and reports."""
