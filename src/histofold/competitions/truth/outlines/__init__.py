"""Files of outlines as truth: read, and drawn as masks."""
