"""Pictures of slides and tiles, with masks over the tissue."""
