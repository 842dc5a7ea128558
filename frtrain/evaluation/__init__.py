"""Verification protocols, metrics, pictures and reports."""

from frtrain.evaluation import identities, suites
from frtrain.evaluation.suites import SUITES, Report

__all__ = ["SUITES", "Report", "identities", "suites"]
