"""How a mask is cleaned after thresholding: travels with the weights, like the threshold itself."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """The steps between a thresholded mask and the submitted one, in their order; each is off at 0."""

    seed_threshold: float = 0.0
    """Hysteresis: a component is kept only where a pixel of it reaches this probability."""
    max_hole_um2: float = 0.0
    """Holes of at most so many square micrometres are filled."""
    smooth_um: float = 0.0
    """Radius in um of the disc whose majority decides each pixel, at the size of the file."""
    min_area_um2: float = 0.0
    """Components below so many square micrometres are dropped."""

    def __post_init__(self) -> None:
        for name in ("max_hole_um2", "smooth_um", "min_area_um2"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a finite number, 0 (off) or more")
        if not 0 <= self.seed_threshold < 1:
            raise ValueError(f"seed_threshold={self.seed_threshold} must be a probability below 1, or 0 (off)")
