"""Synthetic folders in the layout of the kidney competition of 2020."""
