"""Ten modules that a naive bundler would break; the test of the bundler joins them and compares what they print."""
