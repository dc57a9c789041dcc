"""How a synthetic slide is drawn."""
