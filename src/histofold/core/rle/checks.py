"""What run-length functions accept: masks, shapes, orders and windows, refused in words where they are none."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

RLE_ORDERS = ("F", "C")


def checked_mask(mask: np.ndarray) -> np.ndarray:
    """The mask as an array, once it is known to be two-dimensional and of numbers.

    Raises:
        ValueError: If it is not.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(
            f"mask of shape {mask.shape}: needs two dimensions (H, W); pass one channel or slice at a time"
        )
    if mask.dtype.kind not in "biufc":
        raise ValueError(f"mask of {mask.dtype}: needs booleans or numbers (non-zero = mask)")
    return mask


def checked_mask_shape(shape_hw: Sequence[int]) -> tuple[int, int]:
    """Height and width as Python integers.

    Raises:
        ValueError: If they are not two whole numbers of at least 1.
    """
    try:
        height, width = (operator.index(side) for side in shape_hw)
    except (TypeError, ValueError):
        raise ValueError(f"shape_hw={shape_hw!r}: needs two whole numbers, height and width") from None
    if min(height, width) < 1:
        raise ValueError(f"shape_hw={(height, width)}: both sides must be at least 1 pixel")
    return height, width


def require_rle_order(order: str) -> None:
    """Refuse any order but "F" and "C".

    Raises:
        ValueError: For another order.
    """
    if order not in RLE_ORDERS:
        raise ValueError(f'order={order!r}: "F" (column by column) or "C" (row by row)')


def window_spans(window: Sequence[Any], shape_hw: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns (start, stop) of a window.

    Args:
        window: Two slices (y, x), two pairs ((y0, y1), (x0, x1)), or (y0, x0, y1, x1).
        shape_hw: Height and width of the mask.

    Raises:
        ValueError: If the window is malformed, empty or not inside the mask.
    """
    try:
        y, x = window if len(window) == 2 else ((window[0], window[2]), (window[1], window[3]))
        if len(window) not in (2, 4):
            raise TypeError
        spans = _window_span(y, shape_hw[0]), _window_span(x, shape_hw[1])
    except (TypeError, ValueError, IndexError):
        raise ValueError(
            f"window={window!r}: needs two slices (y, x) of step 1, two pairs ((y0, y1), (x0, x1)) or (y0, x0, y1, x1)"
        ) from None
    for (start, stop), side, name in zip(spans, shape_hw, ("rows", "columns"), strict=True):
        if not 0 <= start < stop <= side:
            raise ValueError(
                f"window={window!r}: {name} {start} to {stop} are not inside the mask's {side} {name}: "
                f"0 <= start < stop <= {side} must hold"
            )
    return spans


def _window_span(span: Any, side: int) -> tuple[int, int]:
    if isinstance(span, slice):
        if span.step not in (None, 1):
            raise TypeError
        span = (0 if span.start is None else span.start, side if span.stop is None else span.stop)
    start, stop = span
    return operator.index(start), operator.index(stop)
