"""How Segment Anything is asked, and which of its answers count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SAM = "sam"
"""The architecture: Segment Anything, as published; it is scored, and never trained or packaged."""
SamPrompts = Literal["grid", "truth_boxes", "truth_points"]


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """What Segment Anything is asked in each tile, and what becomes of segments that have no class."""

    prompts: SamPrompts = "grid"
    """`grid`: an even grid of points. `truth_boxes`, `truth_points`: the box of each true object, or a point in it:
    how good its outlines would be if it were told where to look, an upper bound and no prediction."""
    points_per_side: int = 32
    """Points of a row, and of a column, of a tile's grid; each gives up to three segments."""
    min_iou: float = 0.88
    """Segments whose IoU the network itself expects to be lower are dropped (grid)."""
    min_stability: float = 0.95
    """Segments are dropped whose IoU between cuts at logits of 1 and of -1 is lower (grid)."""
    max_area_share: float = 0.25
    """Segments that fill more of their tile are background, and dropped; all others are what is looked for (grid)."""

    def __post_init__(self) -> None:
        if self.points_per_side < 1:
            raise ValueError(f"points_per_side={self.points_per_side} must be at least 1")
        for name in ("min_iou", "min_stability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        if not 0 < self.max_area_share <= 1:
            raise ValueError(f"max_area_share={self.max_area_share} must lie in (0, 1]")
