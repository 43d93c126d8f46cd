"""Measurements: each runs both sides in one go and prints the ratio. Results, losses included, are in RESULTS.md."""
