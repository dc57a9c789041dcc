"""Folds and tiles: what stands between the raw folder and training."""
