"""How volumes are predicted: settings of an experiment that travel with the weights."""

from __future__ import annotations

from dataclasses import dataclass

VOLUME_AXES = ("xy", "xz", "zy")
"""Planes that a volume is cut into: across z, across y, across x."""
SLICE_AXIS = VOLUME_AXES[0]
"""The planes that its files hold."""


def check_axes(axes: tuple[str, ...]) -> None:
    """Refuse what are no planes of a volume.

    Raises:
        ValueError: If there are none, an unknown one, or one twice.
    """
    if not axes or len(set(axes)) < len(axes) or not set(axes) <= set(VOLUME_AXES):
        raise ValueError(f"axes={axes}: name at least one of {', '.join(VOLUME_AXES)}, and each once")


@dataclass(frozen=True, kw_only=True)
class VolumeConfig:
    """From slices to the vessels of a volume."""

    axes: tuple[str, ...] = VOLUME_AXES
    """Planes whose predictions are averaged: xy, xz, zy. Where time is short only the first ones are made."""
    min_voxels: int = 0
    """Components of the volume of fewer voxels are dropped."""
    most_share: float = 0.0
    """0: thresholds are probabilities. Else a threshold t makes mask of 1 - t of this share of the volume's voxels, the
    most probable ones, whatever their probabilities: at 0.04 and the threshold 0.5 of 2%. Thresholds are chosen
    out-of-fold all the same."""

    def __post_init__(self) -> None:
        check_axes(self.axes)
        if not 0 <= self.most_share < 1:
            raise ValueError(f"most_share={self.most_share} must lie in [0, 1): a share of the voxels, 0 for none")
        if self.min_voxels < 0:
            raise ValueError(f"min_voxels={self.min_voxels} must be at least 0")
