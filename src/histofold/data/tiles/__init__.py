"""Training tiles: planned, cut, stored."""
