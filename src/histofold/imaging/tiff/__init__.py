"""TIFF files of every layout, header first."""
