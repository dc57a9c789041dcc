"""A synthetic folder in the layout of the competition of 2023, vessels one by one."""
