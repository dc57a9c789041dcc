"""Mask images as truth: which file is whose, what its values are, and what they mean."""
