"""A legal submission whatever happens: journal, clock, memory, shards."""
