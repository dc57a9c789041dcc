"""Files of a synthetic folder: the same bytes for the same content, and no half-written ones."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write a large file under, which becomes `path` only if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def begin_folder(root: Path, tables: Sequence[str], truth_path: Path) -> None:
    """Take away what tells that a folder is complete, and what a killed run left half-written.

    Args:
        root: The competition's folder, which need not exist.
        tables: Its tables.
        truth_path: The hidden truth.
    """
    for path in (truth_path, *(root / table for table in tables)):
        path.unlink(missing_ok=True)
    for temporary in root.rglob(".*.tmp"):
        temporary.unlink()
