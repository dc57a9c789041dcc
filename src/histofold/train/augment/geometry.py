"""Where the pixels of an example come from: its draws; crop, symmetries, affine maps, deformations in one resampling.

A chain of resamplings would blur more with each link and cost each time; here all maps are composed first. Coordinates
are x before y, as OpenCV wants them, with pixel centres at whole numbers. What is drawn depends on the example's key
alone.
"""

from __future__ import annotations

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

    def __init__(self, key: tuple[int, ...]) -> None:
        """Prepare.

        Args:
            key: Non-negative numbers that identify the example, such as (seed, epoch, position).
        """
        self._key = key
        self._chances = np.random.default_rng(key).random(len(AUGMENT_STEPS))

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
PIXEL_SIZE_RATIO = 2.0
"""Largest factor of the pixel size, to either side; drawn log-uniformly."""
ELASTIC_STRENGTH = 0.12
"""Standard deviation of elastic shifts, as a share of the distance over which they change."""
GRID_STRENGTH = 0.3
"""Largest relative change of the widths of a stretched grid."""
_CELLS = (4, 12)  # cells a side over which an elastic shift changes, fewest and most
_STRIPES = (4, 8)  # rows and columns of a stretched grid, fewest and most
_ALIASING = 1.25  # a tile shrunk by more than this is smoothed before


def move_tile(
    image_HWC: np.ndarray, bits_HW: np.ndarray, size: int, config: AugmentConfig, draws: ExampleDraws
) -> tuple[np.ndarray, np.ndarray, float]:
    """Crop, flip, turn, scale, shear and deform image and mask alike.

    Args:
        image_HWC: uint8 tile; neither side is shorter than `size`.
        bits_HW: uint8 mask; its values are moved as they are (nearest neighbour).
        size: Side S of the result.
        config: With every field given.
        draws: The example's randomness.

    Returns:
        uint8 image (S, S, 3) and mask (S, S), and the natural logarithm of the pixel size that the result shows over
        the tile's own: below 0 where structures are larger than in the tile. Where a scaling differs by axis it is that
        of the square root of the area.
    """
    matrix_22 = _source_matrix(config, draws)
    shifts_HW2 = _shifts(size, config, draws)
    placing = draws.of("crop", 1.0)
    assert placing is not None
    if matrix_22 is None and shifts_HW2 is None:
        y, x = (int(placing.integers(side - size + 1)) for side in image_HWC.shape[:2])
        image_HWC, bits_HW = (array[y : y + size, x : x + size] for array in (image_HWC, bits_HW))
        return *_symmetric(image_HWC, bits_HW, config, draws), 0.0
    matrix_22 = np.eye(2) if matrix_22 is None else matrix_22
    stretch = float(np.sqrt(abs(np.linalg.det(matrix_22))))
    if stretch > _ALIASING:
        image_HWC = cv2.GaussianBlur(image_HWC, (0, 0), (stretch - 1) / 2)
    matrix_23 = _placed(matrix_22, size, image_HWC.shape[:2], placing)
    image_HWC, bits_HW = (
        _sample(array, matrix_23, shifts_HW2, size, way)
        for array, way in ((image_HWC, cv2.INTER_LINEAR), (bits_HW, cv2.INTER_NEAREST))
    )
    return *_symmetric(image_HWC, bits_HW, config, draws), float(np.log(stretch))


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
        factor = PIXEL_SIZE_RATIO ** generator.uniform(-1, 1)
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


def _sample(
    array: np.ndarray, matrix_23: np.ndarray, shifts_HW2: np.ndarray | None, size: int, interpolation: int
) -> np.ndarray:
    """The values of an image or mask where the result's pixels come from."""
    border = cv2.BORDER_REFLECT_101
    if shifts_HW2 is None:
        flags = interpolation | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(array, matrix_23, (size, size), flags=flags, borderMode=border)
    places_HW2 = cv2.transform(_pixel_places(size) + shifts_HW2, matrix_23.astype(np.float32))
    return cv2.remap(array, places_HW2, None, interpolation, borderMode=border)


@lru_cache(maxsize=2)
def _pixel_places(size: int) -> np.ndarray:
    """Coordinates of the result's own pixels, x before y, float32 (S, S, 2)."""
    places_S = np.arange(size, dtype=np.float32)
    return np.stack(np.meshgrid(places_S, places_S), axis=-1)


def _symmetric(
    image_HWC: np.ndarray, bits_HW: np.ndarray, config: AugmentConfig, draws: ExampleDraws
) -> tuple[np.ndarray, np.ndarray]:
    """Flips and quarter turns, exact to the pixel."""
    image_HWC, bits_HW = np.ascontiguousarray(image_HWC), np.ascontiguousarray(bits_HW)
    for step, axis in (("hflip", 1), ("vflip", 0)):
        if draws.of(step, config.flip) is not None:
            image_HWC, bits_HW = cv2.flip(image_HWC, axis), cv2.flip(bits_HW, axis)
    if (generator := draws.of("rotate90", config.rotate90)) is not None and (quarters := int(generator.integers(4))):
        way = (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[quarters - 1]
        image_HWC, bits_HW = cv2.rotate(image_HWC, way), cv2.rotate(bits_HW, way)
    return image_HWC, bits_HW
