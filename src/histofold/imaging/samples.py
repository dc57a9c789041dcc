"""From stored samples of any supported type to uint8 RGB, and the overlaps of a region with a grid of segments.

What a sample means never depends on the region that is read, nor on other pixels:

- uint8 stays; uint16 becomes round(v / 257) and uint32 round(v / 16843009), so that the type's range becomes 0..255;
- floating samples range from 0 to 1 and become round(v * 255); a value that does not round into 0..255, as NaN or those
  of an image of 0..255, is refused, since nothing in a header tells the two ranges apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

DEFLATE_RATIO = 1032
"""Most bytes that one byte of a deflate stream can yield: 258 bytes for two bits."""
JPEG_PIXELS_PER_BYTE = 512
"""Most pixels that one byte of a JPEG can hold: it spends at least one bit on each block of 8 x 8."""


class SampleRangeError(ValueError):
    """Floating samples leave the range that the rule above gives them."""


def samples_to_uint8(samples: np.ndarray, inverted: bool = False) -> np.ndarray:
    """Samples as uint8 by the rules above; only uint8 that is not inverted comes back as it is.

    Args:
        samples: uint8, uint16, uint32 or floating, of any shape and byte order.
        inverted: Whether zero means white.

    Raises:
        SampleRangeError: If floating samples do not range from 0 to 1.
    """
    if samples.dtype.kind == "f":
        samples = _float_to_uint8(samples)
    elif samples.dtype.itemsize == 2:
        samples = ((samples.astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)  # round(v / 257), exactly
    elif samples.dtype.itemsize == 4:
        samples = ((samples.astype(np.uint64) + 8421504) // 16843009).astype(np.uint8)
    return ~samples if inverted else samples


def _float_to_uint8(samples: np.ndarray) -> np.ndarray:
    """Floating samples of 0 to 1 as uint8."""
    if samples.size == 0:
        return samples.astype(np.uint8)
    scaled = samples.astype(np.float64 if samples.dtype.itemsize == 8 else np.float32)
    least, most = float(scaled.min()), float(scaled.max())
    if not (least * 255 >= -0.5 and most * 255 <= 255.5):  # so that NaN fails as well
        raise SampleRangeError(f"floating samples range from 0 to 1, and here from {least:g} to {most:g}")
    np.rint(np.multiply(scaled, 255, out=scaled), out=scaled)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def paste_rgb(
    canvas_HWC: np.ndarray, samples_HWS: np.ndarray, inverted: bool = False, palette_LC: np.ndarray | None = None
) -> None:
    """Write samples into an RGB canvas of the same height and width: grey is repeated, alpha dropped.

    Args:
        canvas_HWC: uint8 (h, w, 3), or (h, w, 1) for one plane of a planar image.
        samples_HWS: As in `samples_to_uint8`; S is 1 (grey, index), 2 (and alpha), 3 (RGB) or 4 (RGB, alpha).
        inverted: Whether zero means white.
        palette_LC: uint8 colours (L, 3) of the indices 0 to L - 1, where the samples are indices.

    Raises:
        SampleRangeError: If floating samples do not range from 0 to 1.
    """
    if palette_LC is not None:
        np.take(palette_LC, samples_HWS[:, :, 0], axis=0, out=canvas_HWC)
        return
    colours = 3 if samples_HWS.shape[2] >= 3 else 1
    canvas_HWC[...] = samples_to_uint8(samples_HWS[:, :, :colours], inverted)


def axis_overlaps(start: int, stop: int, step: int) -> Iterator[tuple[int, slice, slice]]:
    """The segments of one axis that [start, stop) touches: number, part within the segment, part within the region."""
    for number in range(start // step, -(-stop // step)):
        origin = number * step
        first, last = max(start, origin), min(stop, origin + step)
        yield number, slice(first - origin, last - origin), slice(first - start, last - start)
