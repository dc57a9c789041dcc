"""Searches over the settings of an experiment."""
