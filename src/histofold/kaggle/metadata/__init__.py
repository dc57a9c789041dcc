"""The metadata files that Kaggle reads."""
