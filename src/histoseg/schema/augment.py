"""What training does to a tile before the network sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation; each is a probability or a strength, 0 switches it off."""

    crop: int = 0
    """Side of a random piece of each tile that the network sees, in network pixels; 0: the whole tile."""
    flip: float = 0.5
    """Probability of each flip."""
    rotate90: float = 1.0
    """Probability of a rotation by a random multiple of 90 degrees."""
    affine: float = 0.5
    """Probability of scaling, rotation and shear."""
    scale: float = 0.2
    """Largest relative change of scale."""
    rotate: float = 20.0
    """Largest rotation in degrees."""
    sharpness: float = 0.2
    """Probability of blurring or sharpening."""
    colour: float = 0.5
    """Probability of brightness, contrast, saturation and hue jitter."""
    colour_strength: float = 0.2
    """Largest relative jitter of colour."""
    hed: float = 0.5
    """Probability of stain jitter in haematoxylin-eosin-DAB space."""
    hed_strength: float = 0.06
    """Largest relative and absolute jitter of each stain."""
    stain_transfer: float = 0.0
    """Probability of recomposing the tile with other stain vectors, between H-DAB, H&E and PAS."""
    stain_transfer_strength: float = 1.0
    """How far transferred stains stray from the tile's own, 0 to 1."""
    stain_template: float = 0.0
    """Probability of shifting the tile's colours to a template drawn from the statistics of the training fold."""
    stain_template_spread: float = 1.0
    """Spread of the drawn templates, as a multiple of that among the training tiles; at most 5."""
    grey: float = 0.0
    """Probability of showing the tile in grey."""

    def __post_init__(self) -> None:
        probabilities = ("flip", "rotate90", "affine", "sharpness", "colour", "hed", "stain_transfer", "stain_template")
        for name in (*probabilities, "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a probability of 0 to 1")
        if self.crop < 0 or self.crop % 32:
            raise ValueError(f"crop={self.crop} must be a multiple of 32, or 0 for the whole tile")
        if not 0 <= self.scale < 1 or not 0 <= self.colour_strength < 1 or not 0 <= self.hed_strength < 1:
            raise ValueError("scale, colour_strength and hed_strength must lie in [0, 1)")
        if not 0 <= self.stain_transfer_strength <= 1:
            raise ValueError(f"stain_transfer_strength={self.stain_transfer_strength} must lie in [0, 1]")
        if not 0 <= self.stain_template_spread <= 5:
            raise ValueError(f"stain_template_spread={self.stain_template_spread} must lie in [0, 5]")
