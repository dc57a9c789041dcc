"""Slides read header first and by lazy regions, and resampled to a pixel size."""
