"""Datasets for KTO: unpair preferences, synthesize negatives, balance, and check what was made."""

__version__ = "0.1.0"
