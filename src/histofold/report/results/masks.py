"""Masks as PNG files, written row by row: a slide's mask is never held as a whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.schema.files import written_whole

BAND_PX = 1 << 23
"""Pixels that are decoded at once."""
COLUMNS_AT_ONCE = 2048
"""Columns whose runs are cut to a band at once."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LIKE_ABOVE = 2  # PNG's filter of a row that is stored as its difference to the one above it
_GREY = 0


def write_mask(path: Path, masks: Masks) -> None:
    """Write a mask as a grey PNG of 8 bits: 255 is mask; of several classes k is the k-th one, and 0 none.

    Where classes overlap the last one is written.

    Args:
        path: The file, which is replaced whole or not at all.
        masks: The mask, or those of each class, of one size.
    """
    of_classes = class_runs(masks)
    write_png(path, of_classes[0].shape_hw, 8, _mask_bands(of_classes))


def _mask_bands(of_classes: Sequence[Runs]) -> Iterator[np.ndarray]:
    """The rows of the picture from top to bottom, uint8 (h, W) at a time."""
    height, width = of_classes[0].shape_hw
    values = [255] if len(of_classes) == 1 else range(1, len(of_classes) + 1)
    step = max(1, BAND_PX // width)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        band_HW = np.zeros((rows.stop - top, width), np.uint8)
        for left in range(0, width, COLUMNS_AT_ONCE):
            columns = slice(left, min(left + COLUMNS_AT_ONCE, width))
            for value, runs in zip(values, of_classes, strict=True):
                band_HW[:, columns][runs.to_window(rows, columns)] = value
        yield band_HW


def write_png(path: Path, shape_hw: tuple[int, int], bits: int, bands: Iterable[np.ndarray]) -> None:
    """Write a grey PNG, compressed as its rows come.

    Args:
        path: The file, which is replaced whole or not at all.
        shape_hw: Height and width in pixels.
        bits: Of a pixel, 8 or 16.
        bands: The rows from top to bottom as bytes, uint8 (h, W * bits / 8); those of 16 bits begin with the high one.
    """
    height, width = shape_hw
    packer, above_W = zlib.compressobj(), np.zeros(width * bits // 8, np.uint8)
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        stream.write(_SIGNATURE)
        _write_chunk(stream, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, _GREY, 0, 0, 0))
        for band_HW in bands:
            lines = np.full((len(band_HW), len(above_W) + 1), _LIKE_ABOVE, np.uint8)
            np.subtract(band_HW[0], above_W, out=lines[0, 1:])
            np.subtract(band_HW[1:], band_HW[:-1], out=lines[1:, 1:])
            above_W = band_HW[-1]
            _write_chunk(stream, b"IDAT", packer.compress(lines.data))
        _write_chunk(stream, b"IDAT", packer.flush())
        _write_chunk(stream, b"IEND", b"")
        stream.flush()
        os.fsync(stream.fileno())


def _write_chunk(stream: BinaryIO, kind: bytes, content: bytes) -> None:
    stream.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
