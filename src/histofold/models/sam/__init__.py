"""Segment Anything, as published: its weights from local files, and how it is asked."""
