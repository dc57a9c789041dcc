"""Entries of the inference kernels; the bundler makes each one file."""
