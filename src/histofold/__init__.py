"""From a histology competition's folder to a scored submission."""

__version__ = "0.1.0"
