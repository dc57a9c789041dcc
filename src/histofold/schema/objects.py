"""How objects are found, joined and cut: settings of an experiment that travel with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

from histofold.schema.choices import CHOSEN_SETTINGS

DENSE_MAPS = ("boundary", "distance")
"""What dense networks of objects give beside the object itself; these follow its class among a manifest's classes."""


@dataclass(frozen=True, kw_only=True)
class ObjectConfig:
    """From what networks say of tiles to the scored objects of an image."""

    min_score: float = 0.05
    """Detections below this score are dropped."""
    max_objects: int = 1000
    """Most objects of an image, the best by score."""
    nms_iou: float = 0.5
    """Of two detections of a member whose masks overlap by more than this IoU, the better one stays."""
    merge_iou: float = 0.5
    """What two tiles saw of one object is joined where it overlaps by more than this IoU, within what both saw."""
    fusion: Literal["nms", "boxes", "masks"] = "masks"
    """How members and views are fused: the best of each place, weighted boxes with the masks of the first member's
    head, or masks by vote."""
    fusion_iou: float = 0.5
    """Overlap of boxes or masks above which detections of several members or views are one."""
    mask_threshold: float = 0.5
    """Probability above which a pixel belongs to an object."""
    marker: float = 0.3
    """Watershed: a place whose distance to the object's border, 1 in its middle, is above this begins an object."""
    grow_px: float = 0.0
    """Each object grows by so many pixels of the image, or shrinks where this is negative."""
    min_area_px: int = 0
    """Objects of fewer pixels of the image are dropped."""

    def __post_init__(self) -> None:
        for name in ("min_score", "nms_iou", "fusion_iou", "mask_threshold", "marker"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        if not 0.5 <= self.merge_iou <= 1:
            raise ValueError(f"merge_iou={self.merge_iou} must lie in [0.5, 1], where an object has one partner a tile")
        if self.max_objects < 1 or self.min_area_px < 0:
            raise ValueError(
                f"max_objects={self.max_objects} must be at least 1, and min_area_px={self.min_area_px} at least 0"
            )
        if not -100 <= self.grow_px <= 100:
            raise ValueError(f"grow_px={self.grow_px} must lie in [-100, 100] pixels")


def with_mean_choices(own: ObjectConfig, tables: Sequence[Mapping[str, float]]) -> ObjectConfig:
    """The settings of an ensemble: of those that were chosen the mean over its runs, each its own where it chose none.

    Args:
        own: The settings that all runs share.
        tables: What was chosen for each run, as `read_choices` gives it.
    """
    means: dict[str, Any] = {
        name: fmean(table.get(name, getattr(own, name)) for table in tables) for name in CHOSEN_SETTINGS
    }
    return replace(own, **means | {"min_area_px": round(means["min_area_px"])})
