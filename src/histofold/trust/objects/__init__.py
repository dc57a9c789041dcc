"""Objects out-of-fold: raw detections, choices nested over folds, scores and their intervals."""
