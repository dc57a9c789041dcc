"""Network builders behind lazy imports."""
