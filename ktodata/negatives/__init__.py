"""Synthetic negatives: `STRATEGIES`, the contract they keep, and `synthesize`, which runs them over rows."""
