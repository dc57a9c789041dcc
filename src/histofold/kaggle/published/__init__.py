"""Published checkpoints as a weights folder."""
