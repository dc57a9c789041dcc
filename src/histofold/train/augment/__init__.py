"""Augmentation of training tiles."""

import os

# Before the first import of albumentations, which else asks PyPI for a newer version of itself.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
