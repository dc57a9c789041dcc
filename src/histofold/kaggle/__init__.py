"""What Kaggle wants: the bundled kernel, packaged weights, their metadata."""
