"""One prediction engine for validation, out-of-fold scores and kernels."""
