"""Where the pixels of an example come from: its draws; crop, symmetries, affine maps, deformations in one resampling.

A chain of resamplings would blur more with each link and cost each time; here all maps are composed first. Coordinates
are x before y, as OpenCV wants them, with pixel centres at whole numbers. What is drawn depends on the example's key
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from histofold.schema.augment import AugmentConfig

AUGMENT_STEPS = (
    "crop",
    "hflip",
    "vflip",
    "rotate90",
    "affine",
    "pixel_size",
    "elastic",
    "grid",
    "sharpness",
    "colour",
    "hed",
    "stain_transfer",
    "stain_template",
    "thickness",
    "grey",
    "clahe",
    "detail",
    "noise",
    "jpeg",
    "cutout",
)
"""A step's place here is part of its seed: new ones come last, so that the draws of the others stay."""


class ExampleDraws:
    """The randomness of one example; each step has a stream of its own, so that none disturbs another's numbers."""

    def __init__(self, generator: np.random.Generator) -> None:
        """Prepare.

        Args:
            generator: `numpy.random.default_rng(key)` of the numbers that identify the example, such as (seed, epoch,
                position); what decides which steps happen is drawn from it.
        """
        seed = generator.bit_generator.seed_seq
        assert isinstance(seed, np.random.SeedSequence)
        self._key = seed.entropy
        self._chances = generator.random(len(AUGMENT_STEPS))

    def of(self, step: str, probability: float | None) -> np.random.Generator | None:
        """The stream of a step where it happens, else None.

        Args:
            step: Of `AUGMENT_STEPS`.
            probability: Of its happening, 0 to 1, of settings whose fields are all given.
        """
        assert probability is not None, "the settings must be resolved"
        place = AUGMENT_STEPS.index(step)
        if self._chances[place] >= probability:
            return None
        return np.random.default_rng(np.random.SeedSequence(self._key, spawn_key=(place,)))


LARGEST_SHEAR_DEG = 5.0
ELASTIC_STRENGTH = 0.12
"""Standard deviation of elastic shifts, as a share of the distance over which they change."""
GRID_STRENGTH = 0.3
"""Largest relative change of the widths of a stretched grid."""
_CELLS = (4, 12)  # cells a side over which an elastic shift changes, fewest and most
_STRIPES = (4, 8)  # rows and columns of a stretched grid, fewest and most
_TURNS = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)
_BORDER = cv2.BORDER_REFLECT_101
_ALIASING = 1.25  # a tile shrunk by more than this is smoothed before


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Where the pixels of an example come from; images and masks are moved alike."""

    size: int
    """Side S of the example."""
    y: int = 0
    """First row of the tile that it shows, where there is no matrix."""
    x: int = 0
    """First column of it."""
    matrix_23: np.ndarray | None = None
    """Affine map from its places to those of the tile."""
    places_HW2: np.ndarray | None = None  # noqa: N815
    """Places of the tile that its pixels come from, where no affine map says so."""
    stretch: float = 1.0
    """The pixel size that the example shows over the tile's own; where a scaling differs by axis, that of the square
    root of the area."""
    flips: tuple[int, ...] = ()
    """Axes that are turned over last."""
    quarters: int = 0
    """Clockwise quarter turns after that, 0 to 3."""

    def moved(self, array: np.ndarray, interpolation: int) -> np.ndarray:
        """The example of a tile (H, W) or (H, W, C), uint8 or uint16: (S, S) or (S, S, C)."""
        if interpolation != cv2.INTER_NEAREST and self.stretch > _ALIASING:
            array = cv2.GaussianBlur(array, (0, 0), (self.stretch - 1) / 2)
        if self.places_HW2 is not None:
            array = cv2.remap(array, self.places_HW2, None, interpolation, borderMode=_BORDER)
        elif self.matrix_23 is not None:
            flags = interpolation | cv2.WARP_INVERSE_MAP
            array = cv2.warpAffine(array, self.matrix_23, (self.size, self.size), flags=flags, borderMode=_BORDER)
        else:
            array = np.ascontiguousarray(array[self.y : self.y + self.size, self.x : self.x + self.size])
        for axis in self.flips:
            array = cv2.flip(array, axis)
        if array.ndim == 3 and array.shape[2] > 4:  # which OpenCV does not turn
            return np.ascontiguousarray(np.rot90(array, -self.quarters))
        return cv2.rotate(array, _TURNS[self.quarters - 1]) if self.quarters else array


def draw_movement(shape_hw: tuple[int, int], size: int, config: AugmentConfig, draws: ExampleDraws) -> Movement:
    """Draw how a tile is cropped, flipped, turned, scaled, sheared and deformed.

    Args:
        shape_hw: Height and width of the tile, neither shorter than `size`.
        size: Side S of the example.
        config: With every field given.
        draws: The example's randomness.
    """
    matrix_22 = _source_matrix(config, draws)
    shifts_HW2 = _shifts(size, config, draws)
    flips, quarters = _symmetry(config, draws)
    placing = draws.of("crop", 1.0)
    assert placing is not None
    if matrix_22 is None and shifts_HW2 is None:
        y, x = (int(placing.integers(side - size + 1)) for side in shape_hw)
        return Movement(size=size, y=y, x=x, flips=flips, quarters=quarters)
    matrix_22 = np.eye(2) if matrix_22 is None else matrix_22
    matrix_23 = _placed(matrix_22, size, shape_hw, placing)
    places_HW2 = None
    if shifts_HW2 is not None:
        places_HW2 = cv2.transform(_pixel_places(size) + shifts_HW2, matrix_23.astype(np.float32))
    stretch = float(np.sqrt(abs(np.linalg.det(matrix_22))))
    return Movement(
        size=size, matrix_23=matrix_23, places_HW2=places_HW2, stretch=stretch, flips=flips, quarters=quarters
    )


def _source_matrix(config: AugmentConfig, draws: ExampleDraws) -> np.ndarray | None:
    """The linear map from the result to the tile, (2, 2); None where both are one."""
    matrix_22 = None
    if (generator := draws.of("affine", config.affine)) is not None:
        assert config.scale is not None
        assert config.rotate is not None
        scale_x, scale_y = generator.uniform(1 - config.scale, 1 + config.scale, 2)
        angle = np.radians(generator.uniform(-config.rotate, config.rotate))
        shear_x, shear_y = np.tan(np.radians(generator.uniform(-LARGEST_SHEAR_DEG, LARGEST_SHEAR_DEG, 2)))
        turn_22 = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix_22 = np.linalg.inv(turn_22 @ np.array([[1, shear_x], [shear_y, 1]]) @ np.diag([scale_x, scale_y]))
    if (generator := draws.of("pixel_size", config.pixel_size)) is not None:
        assert config.pixel_size_ratio is not None
        factor = config.pixel_size_ratio ** generator.uniform(-1, 1)
        matrix_22 = factor * (np.eye(2) if matrix_22 is None else matrix_22)
    return matrix_22


def _shifts(size: int, config: AugmentConfig, draws: ExampleDraws) -> np.ndarray | None:
    """Shifts of the result's pixels before the affine map, in pixels, float32 (S, S, 2); None where there are none."""
    shifts_HW2 = None
    if (generator := draws.of("elastic", config.elastic)) is not None:
        shifts_HW2 = elastic_shifts(size, ELASTIC_STRENGTH, generator)
    if (generator := draws.of("grid", config.grid)) is not None:
        stretched_HW2 = grid_shifts(size, GRID_STRENGTH, generator)
        shifts_HW2 = stretched_HW2 if shifts_HW2 is None else shifts_HW2 + stretched_HW2
    return shifts_HW2


def elastic_shifts(size: int, strength: float, generator: np.random.Generator) -> np.ndarray:
    """A smooth random field: normal numbers on a coarse grid, interpolated by cubics.

    The usual way (Simard et al., ICDAR 2003) smooths noise at every pixel and costs a hundred times as much.

    Args:
        size: Side S.
        strength: Standard deviation of the shifts as a share of a cell's side.
        generator: Source of the draws.

    Returns:
        Shifts in pixels, x before y, float32 (S, S, 2).
    """
    cells = int(generator.integers(_CELLS[0], _CELLS[1] + 1))
    # Two standard deviations at most: neighbours further apart would fold the tissue.
    nodes = np.clip(generator.standard_normal((cells + 1, cells + 1, 2)), -2, 2) * (strength * size / cells)
    shifts_HW2: np.ndarray = cv2.resize(nodes.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return shifts_HW2


def grid_shifts(size: int, strength: float, generator: np.random.Generator) -> np.ndarray:
    """A grid whose columns and rows are stretched and squeezed, each by itself; its border stays.

    Args:
        size: Side S.
        strength: Largest relative change of a width, below 1.
        generator: Source of the draws.

    Returns:
        Shifts in pixels, x before y, float32 (S, S, 2).
    """
    places_S = np.arange(size)
    shifts_HW2 = np.empty((size, size, 2), np.float32)
    for axis in range(2):
        count = int(generator.integers(_STRIPES[0], _STRIPES[1] + 1))
        knots = np.concatenate([[0], np.cumsum(generator.uniform(1 - strength, 1 + strength, count))])
        moved_S = np.interp(places_S, np.linspace(0, size - 1, count + 1), knots / knots[-1] * (size - 1))
        shifts_HW2[..., axis] = (moved_S - places_S) if axis == 0 else (moved_S - places_S)[:, np.newaxis]
    return shifts_HW2


def _placed(matrix_22: np.ndarray, size: int, shape_hw: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """The linear map with a random place of the result on the tile, (2, 3).

    The place is such that the result shows nothing beyond the tile, as far as it fits; the rest is reflected.
    """
    shape_wh = np.array(shape_hw[::-1])
    reach_2 = np.abs(matrix_22) @ np.array([size, size])
    slack_2 = np.maximum(shape_wh - reach_2, 0) / 2
    middle_2 = (shape_wh - 1) / 2 + generator.uniform(-1, 1, 2) * slack_2
    corner_2 = middle_2 - matrix_22 @ np.full(2, (size - 1) / 2)
    return np.hstack([matrix_22, corner_2[:, np.newaxis]])


@lru_cache(maxsize=2)
def _pixel_places(size: int) -> np.ndarray:
    """Coordinates of the result's own pixels, x before y, float32 (S, S, 2)."""
    places_S = np.arange(size, dtype=np.float32)
    return np.stack(np.meshgrid(places_S, places_S), axis=-1)


def _symmetry(config: AugmentConfig, draws: ExampleDraws) -> tuple[tuple[int, ...], int]:
    """Axes that are flipped, and quarter turns: exact to the pixel."""
    flips = tuple(axis for step, axis in (("hflip", 1), ("vflip", 0)) if draws.of(step, config.flip) is not None)
    generator = draws.of("rotate90", config.rotate90)
    return flips, 0 if generator is None else int(generator.integers(4))
