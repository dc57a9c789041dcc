"""Run-length encoded masks: the texts of Kaggle, and masks held as runs."""

from histofold.core.rle.runs import RunEncoder, decode_rle, decode_rle_window, encode_rle

__all__ = ["RunEncoder", "decode_rle", "decode_rle_window", "encode_rle"]
