"""What training does to a tile before the network sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

_PRESET_NAMES = ("light", "medium", "strong")
_PRESET_VALUES: dict[str, tuple[float, float, float]] = {
    "flip": (0.5, 0.5, 0.5),
    "rotate90": (1.0, 1.0, 1.0),
    "affine": (0.3, 0.5, 0.6),
    "scale": (0.1, 0.2, 0.3),
    "rotate": (10.0, 20.0, 45.0),
    "sharpness": (0.1, 0.2, 0.2),
    "colour": (0.3, 0.5, 0.5),
    "colour_strength": (0.1, 0.2, 0.25),
    "hed": (0.3, 0.5, 0.5),
    "hed_strength": (0.03, 0.06, 0.1),
    "pixel_size": (0.0, 0.0, 0.3),
    "pixel_size_ratio": (2.0, 2.0, 2.0),
    "elastic": (0.0, 0.0, 0.25),
    "grid": (0.0, 0.0, 0.2),
    "stain_transfer": (0.0, 0.0, 0.4),
    "thickness": (0.0, 0.0, 0.4),
    "grey": (0.0, 0.0, 0.2),
    "clahe": (0.0, 0.0, 0.1),
    "detail": (0.0, 0.0, 0.25),
    "detail_ratio": (7.0, 7.0, 7.0),
    "noise": (0.0, 0.0, 0.15),
    "jpeg": (0.0, 0.0, 0.1),
    "cutout": (0.0, 0.0, 0.3),
    "cutmix": (0.0, 0.0, 0.3),
}
COLOUR_CHANGES = ("colour", "hed", "stain_transfer", "stain_template", "grey", "clahe", "jpeg")
"""What needs an image of three colours."""
_STRENGTHS = ("scale", "rotate", "colour_strength", "hed_strength", "pixel_size_ratio", "detail_ratio")
WHOLE_PIXEL_SIZE_RATIO = 1.4
"""Largest `pixel_size_ratio` of images that are seen whole: what such a tile lacks of a larger view is reflected."""
AUGMENT_PRESETS: dict[str, dict[str, float]] = {
    preset: {name: values[place] for name, values in _PRESET_VALUES.items()}
    for place, preset in enumerate(_PRESET_NAMES)
}
AUGMENT_PRESETS["none"] = {
    name: value if name in _STRENGTHS else 0.0 for name, value in AUGMENT_PRESETS["medium"].items()
}
"""What each preset decides, by the name of the field."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation; each is a probability or a strength, 0 switches it off. Not given (None): as the preset says."""

    preset: Literal["none", "light", "medium", "strong"] = "medium"
    """What all fields that are not given are taken from. `strong` is meant for slides of other laboratories; it shows
    up to `pixel_size_ratio` times the pixel size, and what tiles no larger than `crop` do not hold is reflected. `none`
    leaves all of them out."""
    pipeline: str = ""
    """Your own albumentations pipeline, done after ours: a file of `albumentations.save`, or `module:function` that
    gives one. It may name our steps, as `histofold.TransferStain`."""
    crop: int = 0
    """Side of a random piece of each tile that the network sees, in network pixels; 0: the whole tile. What a smaller
    image does not hold of it is reflected."""
    flip: float | None = None
    """Probability of each flip."""
    rotate90: float | None = None
    """Probability of a rotation by a random multiple of 90 degrees."""
    affine: float | None = None
    """Probability of scaling, rotation and shear."""
    scale: float | None = None
    """Largest relative change of scale."""
    rotate: float | None = None
    """Largest rotation in degrees."""
    pixel_size: float | None = None
    """Probability of showing the tile at another pixel size: all structures larger or smaller."""
    pixel_size_ratio: float | None = None
    """Largest factor of the pixel size to either side, 1 to 4; of images that are seen whole at most 1.4, which then is
    also what a preset decides, since what they lack of a larger view is reflected."""
    elastic: float | None = None
    """Probability of a smooth random deformation."""
    grid: float | None = None
    """Probability of stretching the rows and the columns of a coarse grid, each by itself."""
    sharpness: float | None = None
    """Probability of blurring or sharpening."""
    colour: float | None = None
    """Probability of brightness, contrast, saturation and hue jitter."""
    colour_strength: float | None = None
    """Largest relative jitter of colour."""
    hed: float | None = None
    """Probability of stain jitter in haematoxylin-eosin-DAB space."""
    hed_strength: float | None = None
    """Largest relative and absolute jitter of each stain."""
    stain_transfer: float | None = None
    """Probability of recomposing the tile with other stain vectors, between H-DAB, H&E and PAS."""
    stain_template: float = 0.0
    """Probability of shifting the tile's colours to a template drawn from the statistics of the training fold. No
    preset sets it, since it reads training tiles before the first step."""
    stain_template_spread: float = 1.0
    """Spread of the drawn templates, as a multiple of that among the training tiles; at most 5."""
    thickness: float | None = None
    """Probability of showing the section thinner or thicker: it absorbs less, or more and with a little blur."""
    grey: float | None = None
    """Probability of showing the tile in grey."""
    clahe: float | None = None
    """Probability of equalising the brightness of each neighbourhood."""
    detail: float | None = None
    """Probability of losing fine detail, as of a slide scanned at a coarser pixel size; structures keep their size."""
    detail_ratio: float | None = None
    """Largest factor of that pixel size, 1 to 16."""
    noise: float | None = None
    """Probability of a camera's noise."""
    jpeg: float | None = None
    """Probability of JPEG compression."""
    jpeg_quality: int = 40
    """Lowest quality of it, 1 to 95."""
    cutout: float | None = None
    """Probability of painting over one to four rectangles with the tile's mean colour. The mask stays: what is under
    them is to be inferred from around them."""
    cutmix: float | None = None
    """Probability of a rectangle of another tile of the same organ in this one's place."""

    def __post_init__(self) -> None:
        # What a preset may decide is a probability, but for these.
        names = [name for name in AUGMENT_PRESETS["medium"] if name not in _STRENGTHS]
        for name in (*names, "stain_template"):
            self._check_range(name, 0, 1, "is a probability of 0 to 1")
        if self.crop < 0 or self.crop % 32:
            raise ValueError(f"crop={self.crop} must be a multiple of 32, or 0 for the whole tile")
        for name in ("scale", "colour_strength", "hed_strength"):
            if not 0 <= (getattr(self, name) or 0) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        for name, highest in {"stain_template_spread": 5, "rotate": 180}.items():
            self._check_range(name, 0, highest, f"must lie in [0, {highest}]")
        if self.pipeline and ":" not in self.pipeline and not self.pipeline.endswith((".yaml", ".yml", ".json")):
            raise ValueError(f"pipeline={self.pipeline!r} must be a file (.yaml, .json) or module:function")
        for name, highest in {"jpeg_quality": 95, "pixel_size_ratio": 4, "detail_ratio": 16}.items():
            self._check_range(name, 1, highest, f"must lie in [1, {highest}]")

    def _check_range(self, name: str, lowest: float, highest: float, rule: str) -> None:
        value = getattr(self, name)
        if value is not None and not lowest <= value <= highest:
            raise ValueError(f"{name}={value} {rule}")

    def resolved(self) -> AugmentConfig:
        """The same with every field given: what was None is as the preset says."""
        chosen = AUGMENT_PRESETS[self.preset]
        return replace(self, **{name: value for name, value in chosen.items() if getattr(self, name) is None})  # type: ignore[arg-type]
