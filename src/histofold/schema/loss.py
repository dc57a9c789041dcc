"""The loss of an experiment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

LOSS_TERMS = ("bce", "ce", "dice", "jaccard", "tversky", "lovasz", "focal", "boundary", "surface")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and settings of the loss terms and of the auxiliary heads; what has no weight costs nothing."""

    bce: float = 0.5
    """Weight of binary cross-entropy (sigmoid only)."""
    ce: float = 0.0
    """Weight of cross-entropy over the classes and the background (softmax only)."""
    dice: float = 0.5
    """Weight of the soft Dice loss."""
    jaccard: float = 0.0
    """Weight of the soft Jaccard (IoU) loss."""
    tversky: float = 0.0
    """Weight of the Tversky loss."""
    lovasz: float = 0.0
    """Weight of the Lovasz loss, the sharp Jaccard loss; it sorts all pixels of a batch, which takes time."""
    focal: float = 0.0
    """Weight of the focal loss."""
    boundary: float = 0.0
    """Weight of the boundary loss, which may fall below 0, goes beside another term, and copies masks off a GPU."""
    surface: float = 0.0
    """Weight of the soft surface Dice of single tiles, which looks at edges alone and goes beside another term."""
    bce_positive_weight: float = 1.0
    """Weight of mask pixels in bce, of the background 1: 50 where vessels are a fiftieth of a volume."""
    focal_gamma: float = 2.0
    """How strongly the focal loss passes over pixels that are right already."""
    focal_alpha: float = -1.0
    """Weight of mask pixels in the focal loss, of the background 1 less it; -1: none."""
    tversky_alpha: float = 0.3
    """Weight of false pixels in the Tversky loss; at 0 a batch without masks teaches it nothing."""
    tversky_beta: float = 0.7
    """Weight of missed pixels in the Tversky loss."""
    tversky_gamma: float = 1.0
    """The Tversky loss is taken to the power of one over this; 4/3 is the usual focal Tversky loss."""
    dice_smooth: float = 1.0
    """Pixels added to both parts of the fraction in dice, jaccard and tversky; at 0 a batch without masks teaches
    them nothing."""
    dice_per_image: bool = False
    """Take dice, jaccard and tversky of each image and average, instead of over the whole batch."""
    label_smoothing: float = 0.0
    """Share of the truth that is spread evenly over all answers, in bce and ce."""
    ignore: Literal["none", "blank", "background"] = "none"
    """`blank`: pixels without tissue do not count, nor do labels on them; white lumina count as glass. `background`:
    only mask pixels count, of which alone a network learns to see mask everywhere."""
    organ_weights: dict[str, float] = field(default_factory=dict)
    """Weight of the examples of an organ against the others of the batch; 1 where not named, 0 leaves them out."""
    organ: float = 0.0
    """Weight of the auxiliary loss of the organ head; 0: no such head."""
    pixel_size: float = 0.0
    """Weight of the auxiliary loss of the pixel-size head; 0: no such head."""
    deep_supervision: float = 0.0
    """Weight of the same loss on coarser maps of the network; 0: no such heads."""

    object_boundary: float = 1.0
    """Weight of the cross-entropy of the boundary (dense networks in competitions of objects)."""
    object_distance: float = 1.0
    """Weight of the distance from the border of an object (likewise)."""
    detector: dict[str, float] = field(default_factory=dict)
    """Weight of a detector's own losses by name (mask, box_reg, ...), as log.csv has them behind `loss_`; 1 where not
    named. A detector reads nothing else of these settings but `ignore`."""

    def __post_init__(self) -> None:
        numbers = {name: value for name, value in vars(self).items() if type(value) in (int, float)}
        for table in ("organ_weights", "detector"):
            numbers |= {f"{table}.{name}": value for name, value in getattr(self, table).items()}
        for name, value in numbers.items():
            if not math.isfinite(value) or (value < 0 and name != "focal_alpha"):
                raise ValueError(f"{name}={value} must be finite and not negative")
        if not self.weights():
            raise ValueError(f"no term has a weight above 0: give one to any of {', '.join(LOSS_TERMS)}")
        if self.focal_alpha != -1 and not 0 < self.focal_alpha < 1:
            raise ValueError(f"focal_alpha={self.focal_alpha} must lie between 0 and 1, or be -1 for none")
        if self.tversky_alpha + self.tversky_beta == 0:
            raise ValueError("tversky_alpha and tversky_beta must not both be 0")
        if self.tversky_gamma < 1:
            raise ValueError(f"tversky_gamma={self.tversky_gamma} must be at least 1")
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be below 1")

    def weights(self) -> dict[str, float]:
        """The terms with a weight above 0."""
        return {name: getattr(self, name) for name in LOSS_TERMS if getattr(self, name) > 0}

    def check_activation(self, activation: str) -> None:
        """Refuse the cross-entropy that does not belong to a network's activation.

        Raises:
            ValueError: If softmax has a weight for bce, or sigmoid one for ce.
        """
        wrong, right = ("bce", "ce") if activation == "softmax" else ("ce", "bce")
        value = getattr(self, wrong)
        if value > 0:
            raise ValueError(f"loss.{wrong}={value} does not go with {activation}: set it to 0 and give loss.{right}")
