"""The one preprocessing spec: written with the weights, read by training, out-of-fold scores and the kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_CONTEXT_PX = 256


@dataclass(frozen=True, kw_only=True)
class StainReference:
    """The colours that stain normalisation aims at, fitted by `histofold.imaging.stain.fit_slide_reference`."""

    images: tuple[str, ...] = ()
    """What it was fitted on, for people to read; of several images the statistics are averaged."""
    lab_mean: tuple[float, ...] = ()
    """Mean of the tissue in 8-bit CIELAB, three numbers (reinhard)."""
    lab_std: tuple[float, ...] = ()
    """Standard deviation of the tissue in 8-bit CIELAB, three numbers (reinhard)."""
    haematoxylin: tuple[float, ...] = ()
    """Unit vector of haematoxylin in optical density, three numbers (macenko)."""
    second: tuple[float, ...] = ()
    """Unit vector of the second stain, three numbers (macenko)."""
    strengths: tuple[float, ...] = ()
    """Strongest amounts of both stains (macenko)."""

    def __post_init__(self) -> None:
        for name, count in (("lab_mean", 3), ("lab_std", 3), ("haematoxylin", 3), ("second", 3), ("strengths", 2)):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(f"stain_reference.{name}={getattr(self, name)} must hold {count} numbers, or none")
        if min((*self.lab_std, *self.strengths, 1.0)) <= 0:
            raise ValueError("stain_reference.lab_std and stain_reference.strengths must be positive")
        for vector in (self.haematoxylin, self.second):
            if vector and abs(math.hypot(*vector) - 1) > 0.01:
                raise ValueError(f"stain vector {vector} of stain_reference must have the length 1")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a slide's pixels to what the network sees."""

    scale_mode: Literal["physical", "whole"] = "physical"
    """`physical`: tiles at one pixel size in um; `whole`: the image resized to `whole_size`."""
    target_pixel_size_um: float = 1.6
    """Pixel size of the network's input in um (physical mode)."""
    target_pixel_size_by_organ: dict[str, float] = field(default_factory=dict)
    """The same for images of an organ, by its name; all others are seen at `target_pixel_size_um`."""
    min_zoom: float = 0.05
    """Smallest zoom (output pixels per slide pixel) that the pixel size may ask for."""
    max_zoom: float = 4.0
    """Largest zoom that the pixel size may ask for."""
    max_megapixels: float = 2000.0
    """Cap on the scaled image's megapixels; a larger one is scaled down to it."""
    whole_size: int = 768
    """Side of the whole image in network pixels; also the scale of images whose pixel size is unknown."""
    whole_fit: Literal["long_side", "stretch"] = "long_side"
    """`long_side`: keep the aspect, reflect the rest; `stretch`: resize both sides to `whole_size`."""
    context_px: int = 0
    """Pixels that single objects are looked for in beyond each side of a tile of a slide: those of its neighbours where
    they are there, else reflected ones. In pixels of the image; a tile of 512 and 128 of them make 768."""
    slices: Literal[1, 3, 5] = 3
    """Slices of a volume that the network sees as channels: one alone, or it between one or two at each side. Pictures
    have 3, their colours."""
    normalise: Literal["none", "imagenet", "dataset", "per_image"] = "imagenet"
    """`none`: 0 to 1; `imagenet` and `dataset`: by `mean` and `std`; `per_image`: by each tile's own moments."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of the channels, of values in 0 to 1; `dataset` mode fills it in when the dataset is built. Where mean and
    std are not set, training takes those that a timm encoder (tu-NAME) was trained with."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of the channels, of values in 0 to 1."""
    stain: Literal["none", "reinhard", "macenko"] = "none"
    """Stain normalisation before the network, by the statistics of each whole slide: `reinhard` by moments in CIELAB,
    `macenko` by stain vectors in optical density."""
    stain_reference: StainReference = field(default_factory=StainReference)
    """The colours that it aims at; where it is not given, those that the dataset was built with."""

    def __post_init__(self) -> None:
        if not self.target_pixel_size_um > 0:
            raise ValueError(f"target_pixel_size_um={self.target_pixel_size_um} must be positive micrometres")
        for organ, size in self.target_pixel_size_by_organ.items():
            if not size > 0:
                raise ValueError(f"target_pixel_size_by_organ.{organ}={size} must be positive micrometres")
        if not 0 < self.min_zoom <= self.max_zoom:
            raise ValueError(f"zooms must satisfy 0 < min_zoom ({self.min_zoom}) <= max_zoom ({self.max_zoom})")
        if self.whole_size < 32 or self.whole_size % 32:
            raise ValueError(f"whole_size={self.whole_size} must be a multiple of 32, for the encoder's five halvings")
        if not 0 <= self.context_px <= MOST_CONTEXT_PX:
            raise ValueError(f"context_px={self.context_px} must lie in [0, {MOST_CONTEXT_PX}] pixels")
        if not self.max_megapixels > 0:
            raise ValueError(f"max_megapixels={self.max_megapixels} must be positive")
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std} must be positive")

    @property
    def channels(self) -> int:
        """Channels of what is read and stored; of a single slice as many as of a picture, whose middle one it is."""
        return max(3, self.slices)

    def check_stain(self) -> None:
        """Refuse stain normalisation without the colours that it aims at.

        Raises:
            ValueError: With what is missing.
        """
        reference = self.stain_reference
        if self.stain == "reinhard" and not (reference.lab_mean and reference.lab_std):
            raise ValueError("stain='reinhard' needs stain_reference.lab_mean and lab_std: fit them on chosen images")
        if self.stain == "macenko" and not (reference.haematoxylin and reference.second and reference.strengths):
            remedy = "fit them on chosen images"
            raise ValueError(f"stain='macenko' needs stain_reference.haematoxylin, second and strengths: {remedy}")

    def zoomed(self, zoom: float) -> Preprocessing:
        """The same with images `zoom` times as large; a whole image's side stays a multiple of 32."""
        if zoom == 1:
            return self
        side = max(32, round(self.whole_size * zoom / 32) * 32)
        by_organ = {organ: size / zoom for organ, size in self.target_pixel_size_by_organ.items()}
        size = self.target_pixel_size_um / zoom
        return replace(self, target_pixel_size_um=size, target_pixel_size_by_organ=by_organ, whole_size=side)

    def wanted_zoom(self, pixel_size_um: float, organ: str = "") -> float:
        """The zoom that the pixel size asks for, whether it is allowed or not."""
        return pixel_size_um / self.target_pixel_size_by_organ.get(organ, self.target_pixel_size_um)

    def clipped_words(self, pixel_size_um: float | None, organ: str = "") -> str:
        """What becomes of an image whose pixel size asks for a zoom that is not allowed; empty where it is."""
        if self.scale_mode == "whole" or not has_pixel_size(pixel_size_um):
            return ""
        wanted = self.wanted_zoom(float(pixel_size_um or 0), organ)
        zoom = min(max(wanted, self.min_zoom), self.max_zoom)
        if abs(zoom / wanted - 1) < 1e-6:
            return ""
        ends = float(pixel_size_um or 0) / zoom
        return (
            f"its pixels of {pixel_size_um:g} um ask for a zoom of {wanted:.2g}: it is seen at {zoom:g}, {ends:.3g} um"
        )

    def scaled_hw(self, shape_hw: tuple[int, int], pixel_size_um: float | None, organ: str = "") -> tuple[int, int]:
        """Height and width of the image at the network's scale.

        Args:
            shape_hw: Size of the slide in pixels.
            pixel_size_um: Its pixel size; None (unknown) falls back on the whole-image scale.
            organ: What it shows, empty where unknown.
        """
        height, width = shape_hw
        if self.scale_mode == "whole" and self.whole_fit == "stretch":
            return self.whole_size, self.whole_size
        if self.scale_mode == "whole" or not has_pixel_size(pixel_size_um):
            zoom = self.whole_size / max(height, width)
        else:
            zoom = min(max(self.wanted_zoom(float(pixel_size_um or 0), organ), self.min_zoom), self.max_zoom)
        zoom = min(zoom, math.sqrt(self.max_megapixels * 1e6 / (height * width)))
        return max(1, round(height * zoom)), max(1, round(width * zoom))


def has_pixel_size(pixel_size_um: float | None) -> bool:
    """Whether a pixel size can be used: a finite positive number."""
    return pixel_size_um is not None and math.isfinite(pixel_size_um) and pixel_size_um > 0
