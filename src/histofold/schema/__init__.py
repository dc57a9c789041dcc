"""Frozen, typed descriptions of samples, experiments and weights, with strict parsing."""
