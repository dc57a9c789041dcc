"""One adapter a competition: the only home of its columns, dialect, metric and output."""
