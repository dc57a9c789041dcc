"""Run-length encoded masks: the texts of Kaggle, and masks held as runs.

Example:
    >>> import numpy as np
    >>> from histofold.core.rle import decode_rle, encode_rle
    >>> encode_rle(np.array([[1, 1, 0], [1, 0, 1]]))
    '1 3 6 1'
    >>> decode_rle("1 3 6 1", (2, 3)).astype(int).tolist()
    [[1, 1, 0], [1, 0, 1]]
"""

from histofold.core.rle.runs import RunEncoder, decode_rle, decode_rle_window, encode_rle

__all__ = ["RunEncoder", "decode_rle", "decode_rle_window", "encode_rle"]
