"""Image files as people have them beside TIFF, PNG and JPEG; no kernel reaches them."""
