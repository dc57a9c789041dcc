"""Objects of slides: from what networks say of tiles to scored instances at the slide's size."""
