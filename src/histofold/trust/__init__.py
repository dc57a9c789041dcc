"""Scores that mean what they say: out-of-fold, nested thresholds, intervals."""
