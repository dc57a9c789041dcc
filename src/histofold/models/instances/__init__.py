"""Networks that find single objects: boxes, scores and a mask each."""
