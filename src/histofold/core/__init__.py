"""Arithmetic without files and without torch: run-length codes, tiles, metrics."""
