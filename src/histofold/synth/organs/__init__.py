"""The organs that can be drawn."""
