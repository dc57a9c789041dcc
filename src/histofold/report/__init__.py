"""Pictures and one static HTML page."""
