"""Drawing in physical units: noise, wobbly outlines, Voronoi cells and point sets on a pixel grid.

Axis order is (y, x); points are float arrays of shape (N, 2) in pixels. Lengths named `_um` are those of real anatomy;
`Scene.px` turns them into pixels, the scene's shrink factor included.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Outlines are handed to OpenCV as integers with this many fractional bits, so that small objects keep their shape.
_SUBPIXEL_BITS = 4

# The pixels that a stamp touches: offsets (y, x) from its centre, (M, 2) intp, and values in 0 to 1, (M,) float32.
Template = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The grid that is drawn on.

    Attributes:
        shape_hw: Height and width in pixels.
        pixel_size_um: Side of a pixel in um of the (shrunken) tissue.
        shrink: Size of an object over its real size; below 1, an image holds more objects than a real one of its field.
    """

    shape_hw: tuple[int, int]
    pixel_size_um: float
    shrink: float

    def px(self, length_um: float) -> float:
        """Pixels of a real length in um."""
        return length_um * self.shrink / self.pixel_size_um

    @property
    def area_mm2(self) -> float:
        """Area in mm2 of real anatomy, for counts of objects a mm2."""
        height, width = self.shape_hw
        return height * width * (self.pixel_size_um / self.shrink) ** 2 * 1e-6


def fractal_noise(
    rng: np.random.Generator,
    shape_hw: tuple[int, int],
    wavelength_px: float,
    octaves: int = 4,
    persistence: float = 0.6,
) -> np.ndarray:
    """Sum of noise octaves, coarsest at `wavelength_px`, each next one half as long and `persistence` times as strong.

    Built as a pyramid (each level is doubled and a finer one added), so that only the last resize touches every pixel.

    Returns:
        (H, W) float32, about zero mean and unit variance.
    """
    height, width = shape_hw
    step_px = max(wavelength_px / 2, 1.0)
    level_shape = (int(height / step_px) + 3, int(width / step_px) + 3)
    level = rng.standard_normal(level_shape, dtype=np.float32)
    amplitude, power = 1.0, 1.0
    for _ in range(octaves - 1):
        if step_px < 2:
            break
        step_px /= 2
        level_shape = (level_shape[0] * 2, level_shape[1] * 2)
        amplitude *= persistence
        power += amplitude**2
        level = cv2.resize(level, level_shape[::-1], interpolation=cv2.INTER_LINEAR)
        level += amplitude * rng.standard_normal(level_shape, dtype=np.float32)
    rows = min(level_shape[0], int(np.ceil(height / step_px)) + 1)
    columns = min(level_shape[1], int(np.ceil(width / step_px)) + 1)
    part = np.ascontiguousarray(level[:rows, :columns]) / np.float32(np.sqrt(power))
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)


def fibres(rng: np.random.Generator, scene: Scene, wavelength_um: float, angle: float) -> np.ndarray:
    """Wavy parallel strands, as of collagen or smooth muscle.

    Args:
        rng: Source of the waviness.
        scene: The grid.
        wavelength_um: Distance of neighbouring strands.
        angle: Direction of the strands in radians from the x axis.

    Returns:
        (H, W) float32 in -1 to 1.
    """
    height, width = scene.shape_hw
    frequency = 2 * np.pi / max(scene.px(wavelength_um), 3.0)
    y = np.arange(height, dtype=np.float32)[:, None] * np.float32(frequency * np.cos(angle))
    x = np.arange(width, dtype=np.float32)[None, :] * np.float32(frequency * np.sin(angle))
    phase = fractal_noise(rng, scene.shape_hw, scene.px(wavelength_um) * 12, octaves=3)
    phase *= 4.0
    phase += y
    phase -= x
    return np.sin(phase, out=phase)


def jittered_points(
    rng: np.random.Generator, shape_hw: tuple[int, int], spacing_px: float, jitter: float = 0.3
) -> np.ndarray:
    """Points of a jittered hexagonal lattice that covers the grid.

    Args:
        rng: Source of the jitter.
        shape_hw: Grid.
        spacing_px: Distance of neighbours in a row.
        jitter: Largest shift along each axis over the spacing.

    Returns:
        (N, 2) float64, all inside the grid, N >= 1.
    """
    height, width = shape_hw
    row_px = spacing_px * np.sqrt(3) / 2
    rows, columns = int(height / row_px) + 3, int(width / spacing_px) + 3
    grid_y, grid_x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    grid_x += 0.5 * (grid_y % 2)
    offset = rng.uniform(-1, 0, 2)
    points = np.stack([(grid_y + offset[0]) * row_px, (grid_x + offset[1]) * spacing_px], axis=-1).reshape(-1, 2)
    points += rng.uniform(-jitter * spacing_px, jitter * spacing_px, points.shape)
    inside = ((points >= 0) & (points <= np.array([height - 1, width - 1]))).all(axis=1)
    return points[inside] if inside.any() else np.array([[(height - 1) / 2, (width - 1) / 2]])


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


def voronoi_cells(rng: np.random.Generator, scene: Scene, spacing_um: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Cells of a jittered lattice.

    Args:
        rng: Source of the lattice.
        scene: The grid.
        spacing_um: Distance of neighbouring cells' centres.

    Returns:
        Distance to the cell's border in pixels, (H, W) float32, corners rounded; the cell's number, (H, W) int32;
        the count of numbers (one more than the largest).
    """
    spacing_px = max(scene.px(spacing_um), 4.0)
    # Cells are laid out on a wider grid, else those at the image's edge would all be cut at their centre.
    margin = int(spacing_px) + 1
    wide = (scene.shape_hw[0] + 2 * margin, scene.shape_hw[1] + 2 * margin)
    points = np.round(jittered_points(rng, wide, spacing_px)).astype(np.intp)
    seeds = np.ones(wide, dtype=np.uint8)
    seeds[points[:, 0], points[:, 1]] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    inner = np.ones(wide, dtype=np.uint8)
    inner[:, 1:][labels[:, 1:] != labels[:, :-1]] = 0
    inner[1:][labels[1:] != labels[:-1]] = 0
    distance = cv2.distanceTransform(inner, cv2.DIST_L2, 3)
    distance = cv2.GaussianBlur(distance, (0, 0), max(spacing_px * 0.07, 0.5))
    core = np.s_[margin:-margin, margin:-margin]
    return np.ascontiguousarray(distance[core]), np.ascontiguousarray(labels[core]), int(labels.max()) + 1


def ellipse_templates(
    rng: np.random.Generator, diameter_px: float, stretch: float, angle: float | None, count: int = 12
) -> list[Template]:
    """Small soft ellipses to stamp.

    Args:
        rng: Source of sizes and directions.
        diameter_px: Mean diameter.
        stretch: Long axis over short axis, about.
        angle: Direction of the long axis in radians, or None for any.
        count: How many.

    Returns:
        The templates.
    """
    templates = []
    for _ in range(count):
        ratio = np.sqrt(stretch * rng.uniform(0.85, 1.25))
        size = diameter_px / 2 * rng.uniform(0.7, 1.2)
        direction = rng.uniform(0, np.pi) if angle is None else angle + rng.normal(0, 0.25)
        reach = int(np.ceil(size * ratio)) + 1
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        along, across = x * np.cos(direction) + y * np.sin(direction), y * np.cos(direction) - x * np.sin(direction)
        radius = np.hypot(along / (size * ratio), across / (size / ratio))
        # The edge is one pixel wide; the body is a little paler in the middle, as chromatin lies at the envelope.
        value = np.clip((1 - radius) * size + 0.5, 0, 1) * (0.7 + 0.3 * np.clip(radius, 0, 1))
        touched = value > 0.02
        templates.append((np.stack([y[touched], x[touched]], axis=1), value[touched].astype(np.float32)))
    return templates


def stamp(map_HW: np.ndarray, points_N2: np.ndarray, templates: list[Template], strengths_N: np.ndarray) -> None:
    """Stamp templates at points, in place; the larger value stays where they meet.

    Args:
        map_HW: (H, W) float32, contiguous.
        points_N2: Centres (y, x) in pixels.
        templates: As of `ellipse_templates`; taken in turn.
        strengths_N: Factor of each stamp.
    """
    height, width = map_HW.shape
    flat = map_HW.reshape(-1)
    centres = np.round(points_N2).astype(np.intp)
    for index, (offsets, values) in enumerate(templates):
        mine = centres[index :: len(templates)]
        y = mine[:, 0, None] + offsets[:, 0]
        x = mine[:, 1, None] + offsets[:, 1]
        value = strengths_N[index :: len(templates), None] * values
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        where = (y * width + x)[inside]
        np.maximum.at(flat, where, value[inside])
