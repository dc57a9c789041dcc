"""The truth of plain folders: where it lies, how it is read, and what its values mean."""
