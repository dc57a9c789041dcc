"""Weights, kernel and submission to Kaggle in resumable steps."""
