"""Graphs of runs, schedules and data sets, as PNG."""
