"""Synthetic folders in the layout of the competition of 2022."""
