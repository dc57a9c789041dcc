"""Surface Dice of volumes, exactly as the host counts it, slice by slice."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import permutations, product

import numpy as np


def surface_dice(prediction_DHW: np.ndarray, truth_DHW: np.ndarray) -> float:
    """Surface Dice of two volumes at tolerance 0 and spacing 1; both empty counts as 1.

    Each 2x2x2 cube of voxels (the volume lies in one layer of zeros) holds a piece of surface whose area follows from
    which of its corners are set. The score is the area of both surfaces in the cubes that both cross, over all area.

    Source: the evaluation page of blood-vessel-segmentation and https://github.com/google-deepmind/surface-distance

    Args:
        prediction_DHW: Volume of any dtype, non-zero = mask: all slices of one group.
        truth_DHW: Volume of the same shape.

    Raises:
        ValueError: If a volume is not (D, H, W), or the shapes differ; nothing is broadcast.
    """
    if prediction_DHW.shape != truth_DHW.shape:
        raise ValueError(
            f"prediction is {prediction_DHW.shape} and truth is {truth_DHW.shape}: bring the prediction to the "
            "truth's slices and size first"
        )
    if prediction_DHW.ndim != 3:
        raise ValueError(f"volumes must be (D, H, W), got {prediction_DHW.shape}: stack the slices of one group")
    metric = SurfaceDice()
    for prediction_HW, truth_HW in zip(prediction_DHW, truth_DHW, strict=True):
        metric.add(prediction_HW, truth_HW)
    return metric.result()


class SurfaceDice:
    """`surface_dice` of slices that come one after another, exactly that of the stacked volume.

    Holds a byte a pixel of the last slice pair, never the volume; the caller may reuse its buffers after `add`.
    """

    def __init__(self) -> None:
        self._last_quads: tuple[np.ndarray, np.ndarray] | None = None
        # Cubes by code: counts are whole numbers, so the order of adding cannot change the result.
        self._surface_counts = np.zeros(256, np.int64)
        self._shared_counts = np.zeros(256, np.int64)

    def add(self, prediction_HW: np.ndarray, truth_HW: np.ndarray) -> None:
        """Take the next slice.

        Args:
            prediction_HW: Slice of any dtype, non-zero = mask.
            truth_HW: Slice of the same shape, which is also that of all slices before.

        Raises:
            ValueError: If a slice is not (H, W), or a shape differs; the slice is then not taken.
        """
        if prediction_HW.shape != truth_HW.shape:
            raise ValueError(
                f"prediction is {prediction_HW.shape} and truth is {truth_HW.shape}: resize the prediction first"
            )
        if prediction_HW.ndim != 2:
            raise ValueError(f"a slice must be (H, W), got {prediction_HW.shape}: add the slices one by one")
        quads = _surface_quads(prediction_HW), _surface_quads(truth_HW)
        last = self._last_quads or (np.zeros_like(quads[0]), np.zeros_like(quads[1]))
        if quads[0].shape != last[0].shape:
            height, width = last[0].shape
            raise ValueError(
                f"slice is {prediction_HW.shape} and those before are {(height - 1, width - 1)}: a volume's slices "
                "have one size; start a new SurfaceDice for the next group"
            )
        surface, shared = _surface_layer_counts(last, quads)
        self._surface_counts += surface
        self._shared_counts += shared
        self._last_quads = quads

    def result(self) -> float:
        """Surface Dice of the slices added so far, 0 to 1; more may follow. 1 if no slice has any mask."""
        surface_counts, shared_counts = self._surface_counts, self._shared_counts
        if self._last_quads is not None:  # the layer of zeros behind the last slice, not kept
            zeros = np.zeros_like(self._last_quads[0])
            surface, shared = _surface_layer_counts(self._last_quads, (zeros, zeros))
            surface_counts, shared_counts = surface_counts + surface, shared_counts + shared
        if not surface_counts.any():
            return 1.0
        areas = _surface_areas()
        return float(shared_counts @ areas / (surface_counts @ areas))


def _surface_quads(mask_HW: np.ndarray) -> np.ndarray:
    """Each 2x2 square of the mask in one layer of zeros as 4 bits, uint8 (H + 1, W + 1)."""
    padded = np.pad(mask_HW != 0, 1).view(np.uint8)
    pairs = padded[:, :-1] << 1 | padded[:, 1:]
    return np.asarray(pairs[:-1] << 2 | pairs[1:])


def _surface_layer_counts(
    upper: tuple[np.ndarray, np.ndarray], lower: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Cubes between two slices by code, int64 (256,): all of prediction and truth, and those where both have surface.

    Args:
        upper: Quads of prediction and truth in the slice before.
        lower: Quads of prediction and truth in the slice after, of the same shape.
    """
    codes = [before << 4 | after for before, after in zip(upper, lower, strict=True)]
    # Codes 0 and 255 hold no surface; all others do. In uint8, 255 + 1 is 0. Most cubes fall out before the counting.
    surfaces = [(code + np.uint8(1)) > 1 for code in codes]
    both = surfaces[0] & surfaces[1]
    crossed = _surface_code_counts(code[surface] for code, surface in zip(codes, surfaces, strict=True))
    return crossed, _surface_code_counts(code[both] for code in codes)


def _surface_code_counts(parts: Iterable[np.ndarray]) -> np.ndarray:
    """How often each code occurs in all parts together, int64 (256,)."""
    return np.asarray(sum(np.bincount(part, minlength=256) for part in parts), np.int64)


@cache
def _surface_areas() -> np.ndarray:
    """Area of surface in a 2x2x2 cube by its code, float64 (256,), read-only.

    Bit 7 of a code is the corner (0, 0, 0), bit 0 the corner (1, 1, 1), in (z, y, x). Rotating, mirroring or inverting
    a cube keeps its area, which leaves 14 cubes to be named: those of Lorensen and Cline, Marching cubes, 1987.
    """
    root_2, root_3 = np.sqrt(2), np.sqrt(3)
    area_of_kind = {
        0b00000000: 0.0,
        0b00000001: root_3 / 8,
        0b00000011: root_2 / 2,
        0b00000110: root_3 / 4,
        0b00011000: root_3 / 4,
        0b00000111: 1 / 2 + 3 * root_3 / 8,
        0b00010110: 3 * root_3 / 8,
        0b00011001: root_2 / 2 + root_3 / 8,
        0b00001111: 1.0,
        0b00010111: 3 * root_3 / 4,
        0b00011011: root_2 / 2 + root_3 / 2,
        0b00011110: 1 / 2 + root_3 / 2,
        0b00111100: root_2,
        0b01101001: root_3 / 2,
    }
    areas = np.full(256, np.nan)
    for code, area in area_of_kind.items():
        cube = np.unpackbits(np.array([code], np.uint8)).reshape(2, 2, 2)
        for axes, mirrored in product(permutations(range(3)), product((1, -1), repeat=3)):
            z, y, x = mirrored
            twin = int(np.packbits(cube.transpose(axes)[::z, ::y, ::x].ravel())[0])
            areas[[twin, 255 - twin]] = area
    areas.flags.writeable = False  # one array for all callers
    return areas
