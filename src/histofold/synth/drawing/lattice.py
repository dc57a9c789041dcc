"""Randomness that is a function of the place: hashed lattices, noise and cells, alike in whatever part they are drawn.

Nothing here is drawn one after the other. A value belongs to a node (row, column) of an endless lattice and to a seed;
two parts of a slide that share a node get the same value for it.
"""

from __future__ import annotations

import zlib

import numpy as np

from histofold.core.jit import njit

# A sum of four bytes of a hash: its mean and standard deviation; close enough to a normal value.
_BYTES_MEAN, _BYTES_SIGMA = 510.0, 147.8


def seed_of(key: tuple[int, ...], purpose: str, *place: int) -> np.random.SeedSequence:
    """The seed of one purpose at one place; no other purpose shares its numbers.

    Args:
        key: Of the slide, numbers not negative.
        purpose: A word.
        place: Numbers, not negative: an object's index, a block's row and column.
    """
    return np.random.SeedSequence([*key, len(key), zlib.crc32(purpose.encode()), *place])


def stream(key: tuple[int, ...], purpose: str, *place: int) -> np.random.Generator:
    """A generator of one purpose at one place."""
    return np.random.Generator(np.random.SFC64(seed_of(key, purpose, *place)))


def hash_seed(key: tuple[int, ...], purpose: str) -> int:
    """The 32-bit seed of one purpose's lattice."""
    return int(seed_of(key, purpose).generate_state(1)[0])


@njit
def _mix(seed: np.uint32, row: int, column: int) -> np.uint32:
    """A 32-bit hash of a node; every operation is cut back to 32 bits, as numba would widen it."""
    value = np.uint32(seed) ^ np.uint32(np.uint32(row) * np.uint32(0x9E3779B1))
    value = np.uint32(np.uint32(value ^ (value >> np.uint32(15))) * np.uint32(0x85EBCA77))
    value = np.uint32(value ^ np.uint32(np.uint32(column) * np.uint32(0xC2B2AE3D)))
    value = np.uint32(np.uint32(value ^ (value >> np.uint32(13))) * np.uint32(0x27D4EB2F))
    value = np.uint32(np.uint32(value ^ (value >> np.uint32(16))) * np.uint32(0x165667B1))
    return np.uint32(value ^ (value >> np.uint32(15)))


@njit
def _normal(value: np.uint32) -> np.float32:
    """A hash as a number of about zero mean and unit variance."""
    total = (value & 255) + ((value >> 8) & 255) + ((value >> 16) & 255) + ((value >> 24) & 255)
    return np.float32((np.float32(total) - np.float32(_BYTES_MEAN)) * np.float32(1 / _BYTES_SIGMA))


@njit
def _fill_uniform(out: np.ndarray, seed: np.uint32, rows: np.ndarray, columns: np.ndarray) -> None:
    """Numbers in 0 to 1 of nodes, into `out` (N,)."""
    for index in range(len(out)):
        out[index] = np.float32(_mix(seed, rows[index], columns[index]) >> np.uint32(8)) * np.float32(2.0**-24)


def uniform_at(seed: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Numbers in 0 to 1 of lattice nodes.

    Args:
        seed: As of `hash_seed`.
        rows: Rows of the nodes, (N,) int64.
        columns: Columns, (N,) int64.

    Returns:
        (N,) float32.
    """
    out = np.empty(len(rows), dtype=np.float32)
    _fill_uniform(out, np.uint32(seed), rows, columns)
    return out


@njit
def _add_octave(
    field: np.ndarray, origin_yx: tuple[float, float], pixel: float, step: float, seed: np.uint32, amplitude: np.float32
) -> None:
    """Add normal values of a square lattice, linear between nodes; (i, j) lies at the origin + pixel * (i, j)."""
    height, width = field.shape
    top, left = origin_yx
    first = int(np.floor(left / step))
    count = int(np.floor((left + (width - 1) * pixel) / step)) - first + 2
    upper, lower, mixed = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    node = np.empty(width, np.int32)
    share = np.empty(width, np.float32)
    for j in range(width):
        place = (left + j * pixel) / step
        node[j] = int(np.floor(place)) - first
        share[j] = place - np.floor(place)
    known = int(np.floor(top / step)) - 10
    for i in range(height):
        place = (top + i * pixel) / step
        row = int(np.floor(place))
        if row != known:
            for k in range(count):
                upper[k] = _normal(_mix(seed, row, first + k)) * amplitude
                lower[k] = _normal(_mix(seed, row + 1, first + k)) * amplitude
            known = row
        down = np.float32(place - row)
        for k in range(count):
            mixed[k] = upper[k] + down * (lower[k] - upper[k])
        for j in range(width):
            value = mixed[node[j]]
            field[i, j] += value + share[j] * (mixed[node[j] + 1] - value)


def noise_grid(
    seed: int,
    origin_yx: tuple[float, float],
    shape_hw: tuple[int, int],
    pixel: float,
    wavelength_px: float,
    *,
    octaves: int = 4,
    persistence: float = 0.6,
) -> np.ndarray:
    """Sum of noise octaves, coarsest at `wavelength_px`, each next one half as long and `persistence` times as strong.

    Args:
        seed: As of `hash_seed`.
        origin_yx: Place of the first grid point in slide pixels.
        shape_hw: Grid points.
        pixel: Distance of grid points in slide pixels; octaves that fall between the points are left out.
        wavelength_px: Of the coarsest octave, in slide pixels.
        octaves: At most so many.
        persistence: Strength of an octave over the one before.

    Returns:
        (H, W) float32 of zero mean; standard deviation about two thirds.
    """
    field = np.zeros(shape_hw, dtype=np.float32)
    origin_yx = float(origin_yx[0]), float(origin_yx[1])
    chosen: list[tuple[float, float]] = []
    step, amplitude = max(wavelength_px / 2, 1.0), 1.0
    for _ in range(octaves):
        if chosen and step < max(pixel, 1.0):
            break
        chosen.append((step, amplitude))
        step, amplitude = step / 2, amplitude * persistence
    scale = 1 / np.sqrt(sum(amplitude**2 for _, amplitude in chosen))
    for index, (step, amplitude) in enumerate(chosen):
        salted = np.uint32((seed + 0x9E3779B9 * index) & 0xFFFFFFFF)
        _add_octave(field, origin_yx, float(pixel), step, salted, np.float32(amplitude * scale))
    return field


def jittered_nodes(
    seed: int, origin_yx: tuple[float, float], shape_hw: tuple[float, float], spacing_px: float, jitter: float = 0.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of an endless jittered hexagonal lattice in a rectangle.

    Args:
        seed: As of `hash_seed`.
        origin_yx: First corner of the rectangle.
        shape_hw: Its sides in pixels.
        spacing_px: Distance of neighbours in a row.
        jitter: Largest shift along each axis over the spacing.

    Returns:
        Points (N, 2) float64 in slide pixels, all in the rectangle; their rows and their columns, (N,) int64.
    """
    row_px = spacing_px * np.sqrt(3) / 2
    first_row, first_column = int(origin_yx[0] // row_px) - 1, int(origin_yx[1] // spacing_px) - 1
    rows = np.arange(first_row, first_row + int(shape_hw[0] / row_px) + 4, dtype=np.int64)
    columns = np.arange(first_column, first_column + int(shape_hw[1] / spacing_px) + 4, dtype=np.int64)
    row_N, column_N = (grid.ravel() for grid in np.meshgrid(rows, columns, indexing="ij"))
    y, x = node_places(seed, row_N, column_N, spacing_px, jitter)
    inside = (y >= origin_yx[0]) & (y < origin_yx[0] + shape_hw[0])
    inside &= (x >= origin_yx[1]) & (x < origin_yx[1] + shape_hw[1])
    return np.stack([y[inside], x[inside]], axis=1), row_N[inside], column_N[inside]


def node_places(
    seed: int, rows: np.ndarray, columns: np.ndarray, spacing_px: float, jitter: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places (y, x) of nodes of the lattice of `jittered_nodes`, each (N,) float64."""
    shift_y = (uniform_at(seed, rows, columns) * 2 - 1) * jitter
    shift_x = (uniform_at(seed ^ 0x5BD1E995, rows, columns) * 2 - 1) * jitter
    y = (rows * (np.sqrt(3) / 2) + shift_y) * spacing_px
    x = (columns + 0.5 * (rows % 2) + shift_x) * spacing_px
    return y, x


@njit
def nearest_cells(
    found: tuple[np.ndarray, np.ndarray],
    grid_3: np.ndarray,
    points_RC2: np.ndarray,
    first: np.ndarray,
    spacing: float,
    turn: np.ndarray,
) -> None:
    """Voronoi cells of lattice points: the nearest point's index and the distance to the cell's border.

    Args:
        found: Both filled: distance to the nearest bisector in the lattice's units, (H, W) float32, and flat index of
            the nearest point, (H, W) int32.
        grid_3: Slide coordinates y and x of the first grid point, and the distance of grid points, float64.
        points_RC2: Lattice coordinates (along rows, across) of the points, (R, C, 2) float64, with two more rows and
            columns at each side than the grid needs.
        first: (2,) row and column of points_RC2[0, 0].
        spacing: Distance of neighbours.
        turn: (2, 2) from slide coordinates to the lattice's (turned and stretched).
    """
    border, label = found
    height, width = border.shape
    points_y, points_x = points_RC2[..., 0], points_RC2[..., 1]
    rows, columns = points_y.shape
    row_step = spacing * np.sqrt(3) / 2
    for i in range(height):
        y = grid_3[0] + i * grid_3[2]
        for j in range(width):
            x = grid_3[1] + j * grid_3[2]
            v = turn[0, 0] * y + turn[0, 1] * x
            u = turn[1, 0] * y + turn[1, 1] * x
            row = int(np.floor(v / row_step + 0.5)) - first[0]
            column = int(np.floor(u / spacing)) - first[1]
            near, near_row, near_column = 1e30, row, column
            for r in range(max(row - 2, 0), min(row + 3, rows)):
                for c in range(max(column - 2, 0), min(column + 3, columns)):
                    away = (points_y[r, c] - v) ** 2 + (points_x[r, c] - u) ** 2
                    if away < near:
                        near, near_row, near_column = away, r, c
            home_y, home_x = points_y[near_row, near_column], points_x[near_row, near_column]
            least = 1e30
            for r in range(max(near_row - 2, 0), min(near_row + 3, rows)):
                for c in range(max(near_column - 2, 0), min(near_column + 3, columns)):
                    dy, dx = points_y[r, c] - home_y, points_x[r, c] - home_x
                    length = np.sqrt(dy * dy + dx * dx)
                    if length > 0:
                        gap = ((0.5 * dy + home_y - v) * dy + (0.5 * dx + home_x - u) * dx) / length
                        least = min(least, gap)
            border[i, j] = max(least, 0.0)
            label[i, j] = near_row * columns + near_column


@njit
def stamp_ellipses(
    map_HW: np.ndarray, points: np.ndarray, radii: np.ndarray, angles: np.ndarray, strengths: np.ndarray
) -> None:
    """Stamp soft ellipses at points, in place; the larger value stays where they meet.

    Args:
        map_HW: (H, W) uint8.
        points: (N, 2) centres (y, x) in pixels of the map.
        radii: (N, 2) half axes in pixels, along and across the direction.
        angles: (N,) directions of the long axis in radians from the x axis.
        strengths: (N,) value in the middle, 0 to 255.
    """
    height, width = map_HW.shape
    for n in range(len(points)):
        along_px, across_px = radii[n, 0], radii[n, 1]
        size = np.sqrt(along_px * across_px)
        cos, sin = np.cos(angles[n]), np.sin(angles[n])
        reach_y = np.sqrt((along_px * sin) ** 2 + (across_px * cos) ** 2) + 1
        reach_x = np.sqrt((along_px * cos) ** 2 + (across_px * sin) ** 2) + 1
        for i in range(max(int(points[n, 0] - reach_y), 0), min(int(points[n, 0] + reach_y) + 2, height)):
            for j in range(max(int(points[n, 1] - reach_x), 0), min(int(points[n, 1] + reach_x) + 2, width)):
                y, x = i - points[n, 0], j - points[n, 1]
                along, across = (x * cos + y * sin) / along_px, (y * cos - x * sin) / across_px
                radius = np.sqrt(along * along + across * across)
                edge = (1 - radius) * size + 0.5
                if edge > 0.02:
                    # The edge is one pixel wide; the body is paler in the middle, as chromatin lies at the envelope.
                    value = strengths[n] * min(edge, 1.0) * (0.7 + 0.3 * min(radius, 1.0))
                    map_HW[i, j] = max(map_HW[i, j], np.uint8(value))


@njit
def expose_noise(
    image_HWC: np.ndarray,
    light_HWC: np.ndarray,
    origin_yx: tuple[int, int],
    tilt_2: tuple[np.ndarray, np.ndarray],
    seed: np.uint32,
    sigma: np.float32,
) -> None:
    """Apply the lamp's tilt, add the sensor's noise, round: into (H, W, 3) uint8, from (H, W, 3) float32."""
    height, width, _ = light_HWC.shape
    tilt_H, tilt_W = tilt_2
    for i in range(height):
        for j in range(width):
            value = _mix(seed, origin_yx[0] + i, origin_yx[1] + j)
            lamp = np.float32(1) + tilt_H[i] + tilt_W[j]
            for channel in range(3):
                value = np.uint32(np.uint32(value ^ (value >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
                noisy = light_HWC[i, j, channel] * lamp + sigma * _normal(value) + np.float32(0.5)
                image_HWC[i, j, channel] = np.uint8(min(max(noisy, np.float32(0)), np.float32(255)))
