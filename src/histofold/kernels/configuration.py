"""Configuration: where the kernel finds its inputs, where it writes, and how long it may take.

Nothing here decides a pixel: scale, tiles, views, thresholds and batch stand in manifest.json beside the weights.
"""

KERNEL_INPUTS = "/kaggle/input"  # searched for the competition's tables and images, and for weights, by content
KERNEL_WORKING = "/kaggle/working"  # submission.csv is written here
KERNEL_LIMIT_S = 9 * 3600.0  # the host stops a kernel of this competition after 9 hours
KERNEL_LOG_LEVEL = "INFO"  # DEBUG, INFO, WARNING or ERROR
