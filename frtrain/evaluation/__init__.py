"""Verification protocols, metrics, pictures and reports."""

from frtrain.evaluation import identities, pack_suite, suites
from frtrain.evaluation.suites import SUITES, Report

__all__ = ["SUITES", "Report", "identities", "pack_suite", "suites"]
