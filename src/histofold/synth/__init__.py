"""Synthetic competitions for demos and tests."""
