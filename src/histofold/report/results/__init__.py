"""What people use of a prediction: masks, outlines, probabilities, pictures."""
