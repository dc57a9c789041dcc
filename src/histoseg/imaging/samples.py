"""From stored samples of any supported type to uint8 RGB, and the overlaps of a region with a grid of segments."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

DEFLATE_RATIO = 1032
"""Most bytes that one byte of a deflate stream can yield: 258 bytes for two bits."""
JPEG_PIXELS_PER_BYTE = 512
"""Most pixels that one byte of a JPEG can hold: it spends at least one bit on each block of 8 x 8."""


def samples_to_uint8(samples: np.ndarray, inverted: bool = False) -> np.ndarray:
    """Samples as uint8: 8-bit as they are, 16-bit as round(v / 257), which maps 0..65535 onto 0..255.

    Args:
        samples: uint8 or uint16 of any shape.
        inverted: Whether zero means white.
    """
    if samples.dtype != np.uint8:
        samples = ((samples.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)  # round(v / 257), exactly
    return ~samples if inverted else samples


def paste_rgb(canvas_HWC: np.ndarray, samples_HWS: np.ndarray, inverted: bool = False) -> None:
    """Write samples into an RGB canvas of the same height and width: grey is repeated, alpha dropped.

    Args:
        canvas_HWC: uint8 (h, w, 3), or (h, w, 1) for one plane of a planar image.
        samples_HWS: uint8 or uint16; S is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
        inverted: Whether zero means white.
    """
    colours = 3 if samples_HWS.shape[2] >= 3 else 1
    canvas_HWC[...] = samples_to_uint8(samples_HWS[:, :, :colours], inverted)


def axis_overlaps(start: int, stop: int, step: int) -> Iterator[tuple[int, slice, slice]]:
    """The segments of one axis that [start, stop) touches: number, part within the segment, part within the region."""
    for number in range(start // step, -(-stop // step)):
        origin = number * step
        first, last = max(start, origin), min(stop, origin + step)
        yield number, slice(first - origin, last - origin), slice(first - start, last - start)
