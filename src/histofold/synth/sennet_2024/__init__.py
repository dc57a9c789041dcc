"""A synthetic folder in the layout of the volumes of 2024: slices of kidneys, and the vessels in them."""
