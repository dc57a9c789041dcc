"""Contents of files: the same bytes for the same content, without timestamps and with fixed line ends."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import tifffile

# Layouts met in the wild, one after the other, so that a reader meets them all.
TIFF_LAYOUTS: dict[str, dict[str, Any]] = {
    "tiled deflate": {"tile": (256, 256), "compression": "zlib", "predictor": True},
    "striped plain": {"rowsperstrip": 64},
    "striped lzw": {"rowsperstrip": 96, "compression": "lzw", "predictor": True},
    # The array is RGB; the encoder makes YCbCr of it, and says so in the file.
    "tiled jpeg": {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 92}},
}


def tiff_bytes(image_HWC: np.ndarray, layout: str) -> bytes:
    """Encode an RGB image as TIFF.

    Args:
        image_HWC: (H, W, 3) uint8 RGB.
        layout: A key of `TIFF_LAYOUTS`; "tiled jpeg" loses a little.
    """
    stream = io.BytesIO()
    tifffile.imwrite(stream, image_HWC, photometric="rgb", metadata=None, software=False, **TIFF_LAYOUTS[layout])
    return stream.getvalue()


def png_bytes(image: np.ndarray) -> bytes:
    """Encode a (H, W, 3) uint8 RGB image or a (H, W) uint8 or uint16 mask as PNG."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(bgr))
    assert done, "OpenCV refused an array that PNG can hold"
    return encoded.tobytes()


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """Encode rows of text under a header as csv with Unix line ends."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue().encode()
