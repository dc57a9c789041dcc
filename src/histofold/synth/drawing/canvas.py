"""Wobbly outlines and their painting; axis order is (y, x), points are float arrays of shape (N, 2) in pixels."""

from __future__ import annotations

import cv2
import numpy as np

# Outlines are handed to OpenCV as integers with this many fractional bits, so that small objects keep their shape.
_SUBPIXEL_BITS = 4


def blob_outline(
    rng: np.random.Generator,
    centre_yx: tuple[float, float],
    radius_px: float,
    *,
    wobble: float = 0.06,
    harmonics: int = 5,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> np.ndarray:
    """Outline of a closed wobbly shape.

    Args:
        rng: Source of the wobble.
        centre_yx: Centre.
        radius_px: Mean radius across the long axis.
        wobble: Amplitude of the wobble over the radius.
        harmonics: Highest frequency of the wobble.
        stretch: Long axis over short axis.
        angle: Direction of the long axis in radians from the x axis.

    Returns:
        (P, 2) float64 points in order round the centre.
    """
    count = int(np.clip(radius_px * stretch * 2, 24, 160))
    theta = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = np.ones(count)
    for k in range(2, harmonics + 1):
        radius += wobble * rng.normal() * (2.0 / k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    radius = radius_px * np.clip(radius, 0.45, 1.6)
    along, across = stretch * radius * np.cos(theta), radius * np.sin(theta)
    y = centre_yx[0] + along * np.sin(angle) + across * np.cos(angle)
    x = centre_yx[1] + along * np.cos(angle) - across * np.sin(angle)
    return np.stack([y, x], axis=1)


def inset(outline_P2: np.ndarray, width_px: float | np.ndarray, least: float = 0.12) -> np.ndarray:
    """The outline drawn in towards its centre by a width, but never to less than `least` of its radius.

    Args:
        outline_P2: Points (y, x).
        width_px: How far in, in pixels: one number, or one a point.
        least: Smallest radius over the former one.

    Returns:
        (P, 2) points.
    """
    centre = outline_P2.mean(axis=0)
    arms = outline_P2 - centre
    radius = np.maximum(np.hypot(arms[:, 0], arms[:, 1]), 1e-6)
    return centre + arms * np.maximum(1 - width_px / radius, least)[:, None]


def paint(map_HW: np.ndarray, outline_P2: np.ndarray, value: float) -> None:
    """Fill the inside of an outline in place."""
    points = np.round(outline_P2[:, ::-1] * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillPoly(map_HW, [points], color=value, shift=_SUBPIXEL_BITS)


def stroke(map_HW: np.ndarray, outline_P2: np.ndarray, value: float, width_px: float, closed: bool = True) -> None:
    """Draw an outline as a line in place."""
    points = np.round(outline_P2[:, ::-1] * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    thickness = max(1, round(width_px))
    cv2.polylines(map_HW, [points], closed, color=value, thickness=thickness, shift=_SUBPIXEL_BITS)
