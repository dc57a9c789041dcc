"""A synthetic kidney as a scanner sees it: one slice of voxels at a time, and which of them are vessel.

A voxel holds several things in part: what the surface of a tube cuts is as bright as the share of it that lies within,
so that thin vessels fade where voxels are coarse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from histofold.synth.files import random_stream
from histofold.synth.sennet_2024.kidney import Branch, Kidney

GREY_LIMITS = (18_000, 37_500)
"""Grey values of the host's files lie between these."""
_GEL, _CORTEX, _MEDULLA, _SINUS, _CAPSULE, _HOLLOW, _WALL, _CLOT = (
    20_500,
    23_300,
    22_600,
    21_600,
    24_600,
    21_300,
    24_400,
    25_600,
)
_WALL_UM, _CAPSULE_UM, _RIM_UM = 22.0, 70.0, 150.0
_NOISE, _RING, _SPECKS = 420, 160, 1e-4
_GRAIN_UM, _CLOUD_UM = 180.0, 1200.0
_STREAKS = 90  # of the medulla, around the sinus
_LATTICE, _STREAM_RINGS, _STREAM_STREAKS, _STREAM_SLICE = range(4)


class SliceOfKidney(NamedTuple):
    """What a slice shows."""

    grey: np.ndarray
    """uint16 (H, W)."""
    truth: np.ndarray
    """Every vessel, bool (H, W)."""
    labelled: np.ndarray
    """Those that were labelled, bool (H, W)."""


class Tubes(NamedTuple):
    """Straight pieces of tubes."""

    starts: np.ndarray
    """(M, 3): z, y, x in um."""
    ends: np.ndarray
    """(M, 3): z, y, x in um."""
    radii: np.ndarray
    """(M,) in um."""
    levels: np.ndarray
    """(M,) grey values of what is in them."""
    labelled: np.ndarray
    """(M,) bool: whether an annotator saw them."""


def tubes_of(branches: tuple[Branch, ...], missed: frozenset[int] = frozenset()) -> Tubes:
    """The pieces of branches, those at the places `missed` not labelled."""
    counts = [len(branch.points) - 1 for branch in branches]
    return Tubes(
        np.concatenate([branch.points[:-1] for branch in branches]),
        np.concatenate([branch.points[1:] for branch in branches]),
        np.repeat([branch.radius_um for branch in branches], counts),
        np.repeat([_CLOT if branch.clotted else _HOLLOW for branch in branches], counts),
        np.repeat([place not in missed for place in range(len(branches))], counts),
    )


@dataclass(frozen=True)
class Scan:
    """A kidney on a grid of voxels."""

    kidney: Kidney
    """What is scanned."""
    voxel_um: float
    """Side of a voxel."""
    key: tuple[int, ...]
    """Of its random streams."""
    missed: frozenset[int] = frozenset()
    """Places of the vessels that are not labelled."""

    @property
    def shape_dhw(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        depth, height, width = (max(1, round(float(side) / self.voxel_um)) for side in self.kidney.extent_um)
        return depth, height, width

    @cached_property
    def _vessels(self) -> Tubes:
        return tubes_of(self.kidney.vessels, self.missed)

    @cached_property
    def _calyces(self) -> Tubes:
        return tubes_of(self.kidney.calyces)

    def slice_at(self, number: int) -> SliceOfKidney:
        """The slice of a number; others need not be drawn."""
        rng = random_stream(*self.key, _STREAM_SLICE, number)
        _, height, width = self.shape_dhw
        z = (number + 0.5) * self.voxel_um
        y_H1 = ((np.arange(height) + 0.5) * self.voxel_um)[:, None]
        x_1W = ((np.arange(width) + 0.5) * self.voxel_um)[None]
        grey_HW = self._tissue(z, y_H1, x_1W)
        calyx_HW, _, _ = self._distances(self._calyces, z, y_H1, x_1W)
        _mix(grey_HW, _HOLLOW - 300, self._share(calyx_HW))
        vessel_HW, level_HW, labelled_HW = self._distances(self._vessels, z, y_H1, x_1W)
        _mix(grey_HW, _WALL, self._share(vessel_HW))
        _mix(grey_HW, level_HW, self._share(vessel_HW + _WALL_UM))
        grey_HW += self._rings(number) + rng.normal(0, _NOISE, grey_HW.shape)
        specks = rng.random(grey_HW.shape) < _SPECKS
        grey_HW = cv2.GaussianBlur(grey_HW, (0, 0), 0.5)
        grey_HW[specks] = rng.uniform(28_000, GREY_LIMITS[1], int(specks.sum()))
        return SliceOfKidney(np.clip(grey_HW, *GREY_LIMITS).astype(np.uint16), vessel_HW <= 0, labelled_HW <= 0)

    def _share(self, distance_HW: np.ndarray) -> np.ndarray:
        """The share of each voxel that lies within a surface, by its distance from it, about."""
        return np.clip(0.5 - distance_HW / self.voxel_um, 0, 1)

    def _tissue(self, z: float, y_H1: np.ndarray, x_1W: np.ndarray) -> np.ndarray:
        """Grey values of a slice without tubes, float64 (H, W)."""
        kidney, shape_hw = self.kidney, (y_H1.size, x_1W.size)
        places = (np.array(z), y_H1, x_1W)
        cloud_HW = self._lattice(z, shape_hw, _CLOUD_UM)
        depth_HW = kidney.depth_um(places) + 60 * cloud_HW
        grain_HW = self._lattice(z, shape_hw, _GRAIN_UM)
        grey_HW = _GEL + 150 * cloud_HW
        _mix(grey_HW, _CAPSULE, self._share(-depth_HW))
        _mix(grey_HW, _CORTEX + 320 * grain_HW, self._share(_CAPSULE_UM - depth_HW))
        inner_HW = np.clip((depth_HW - kidney.cortex_um - 150 * cloud_HW) / _RIM_UM, 0, 1)
        _mix(grey_HW, _MEDULLA + 120 * grain_HW + 350 * self._streaks(z, y_H1, x_1W), inner_HW)
        fat_HW = np.clip((1 + 0.1 * cloud_HW - kidney.sinus(places)) / 0.1, 0, 1)
        _mix(grey_HW, _SINUS + 200 * grain_HW, fat_HW)
        return grey_HW

    def _distances(
        self, tubes: Tubes, z: float, y_H1: np.ndarray, x_1W: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How far each voxel of a slice lies from the surface of the nearest tube, at most two voxels; negative within.

        Returns:
            (distances in um, grey value of what the nearest tube holds, distances of labelled tubes alone), (H, W).
        """
        margin = 2 * self.voxel_um
        shape_hw = (y_H1.size, x_1W.size)
        nearest_HW, labelled_HW = np.full(shape_hw, margin), np.full(shape_hw, margin)
        level_HW = np.full(shape_hw, float(_HOLLOW))
        low_M3 = np.minimum(tubes.starts, tubes.ends) - tubes.radii[:, None] - margin
        high_M3 = np.maximum(tubes.starts, tubes.ends) + tubes.radii[:, None] + margin
        for place in np.flatnonzero((low_M3[:, 0] < z) & (high_M3[:, 0] > z)):
            box = tuple(
                slice(*np.searchsorted(axis.ravel(), (low_M3[place, 1 + at], high_M3[place, 1 + at])))
                for at, axis in enumerate((y_H1, x_1W))
            )
            start, along = tubes.starts[place], tubes.ends[place] - tubes.starts[place]
            offsets = (z - start[0], y_H1[box[0]] - start[1], x_1W[:, box[1]] - start[2])
            share = sum(offset * part for offset, part in zip(offsets, along, strict=True)) / (along @ along)
            share = np.clip(share, 0, 1)
            squares = sum((offset - share * part) ** 2 for offset, part in zip(offsets, along, strict=True))
            distance = np.sqrt(squares) - tubes.radii[place]
            closer = distance < nearest_HW[box]
            nearest_HW[box][closer] = distance[closer]
            level_HW[box][closer] = tubes.levels[place]
            if tubes.labelled[place]:
                labelled_HW[box] = np.minimum(labelled_HW[box], distance)
        return nearest_HW, level_HW, labelled_HW

    def _lattice(self, z: float, shape_hw: tuple[int, int], spacing_um: float) -> np.ndarray:
        """Smooth noise of a wavelength in um, alike in neighbouring slices, float64 (H, W)."""
        size = tuple(max(2, round(side * self.voxel_um / spacing_um) + 1) for side in shape_hw)
        below, share = divmod(z / spacing_um, 1)
        low, high = (
            random_stream(*self.key, _LATTICE, round(spacing_um), int(below) + step).normal(size=size)
            for step in (0, 1)
        )
        mixed = (1 - share) * low + share * high
        return np.asarray(cv2.resize(mixed, dsize=shape_hw[::-1], interpolation=cv2.INTER_CUBIC))

    def _streaks(self, z: float, y_H1: np.ndarray, x_1W: np.ndarray) -> np.ndarray:
        """Rays of the medulla that run from the sinus outwards, float64 (H, W)."""
        _, middle_y, middle_x = self.kidney.sinus_um
        turn_HW = (np.arctan2(y_H1 - middle_y, x_1W - middle_x) / (2 * np.pi)) % 1
        below, share = divmod(z / _CLOUD_UM, 1)
        low, high = (
            random_stream(*self.key, _STREAM_STREAKS, int(below) + step).normal(size=_STREAKS) for step in (0, 1)
        )
        around = (1 - share) * low + share * high
        return np.interp(turn_HW * _STREAKS, np.arange(_STREAKS + 1), [*around, around[0]])

    def _rings(self, number: int) -> np.ndarray:
        """Rings about the axis of the scanner, which drift slowly from slice to slice, float64 (H, W)."""
        depth, height, width = self.shape_dhw
        y_H1, x_1W = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width)[None] - (width - 1) / 2
        values = random_stream(*self.key, _STREAM_RINGS).normal(0, _RING, (2, height + width))
        turn = np.pi / 2 * number / depth
        table = np.cos(turn) * values[0] + np.sin(turn) * values[1]
        return np.interp(np.hypot(y_H1, x_1W), np.arange(height + width), table)


def _mix(grey_HW: np.ndarray, level: float | np.ndarray, share_HW: np.ndarray) -> None:
    """Let a share of each voxel be of another grey level, in place."""
    grey_HW += share_HW * (level - grey_HW)
