"""Training on single objects: what detectors and dense networks learn from the labels of a tile, and their losses."""
