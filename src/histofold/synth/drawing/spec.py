"""What a synthetic slide shows, and what is read from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histofold.synth.drawing.artefacts import ARTEFACTS
from histofold.synth.drawing.tissue import Stain
from histofold.synth.organs import ORGANS


@dataclass(frozen=True, kw_only=True)
class SlideSpec:
    """What a slide shows.

    Raises:
        ValueError: A value is out of its range.
    """

    key: tuple[int, ...]
    """Numbers, not negative, that all randomness comes from; same key and spec, same slide."""
    organ: str
    """One of `ORGANS`."""
    stain: Stain
    """How the donor's slides are stained."""
    shape_hw: tuple[int, int]
    """Height and width in pixels."""
    pixel_size_um: float
    """Side of a pixel."""
    shrink: float = 1.0
    """Size of objects over their real size; small images hold small objects."""
    thickness_um: float = 4.0
    """Of the section: a thicker one is darker and less sharp."""
    artefacts: tuple[str, ...] = ()
    """Of `ARTEFACTS`; where they lie comes from the key."""
    jpeg_quality: int = 0
    """Traces of an earlier JPEG compression of this quality, 1 to 100; 0: none."""

    def __post_init__(self) -> None:
        if self.organ not in ORGANS:
            raise ValueError(f"organ {self.organ!r} is not one of {', '.join(ORGANS)}")
        unknown = sorted(set(self.artefacts) - set(ARTEFACTS))
        if unknown:
            raise ValueError(f"artefacts {', '.join(unknown)} are not of {', '.join(ARTEFACTS)}")
        if min(self.shape_hw) < 1:
            raise ValueError(f"shape_hw={self.shape_hw} must be at least one pixel each way")
        for name in ("pixel_size_um", "shrink", "thickness_um"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality={self.jpeg_quality} must be 1 to 100, or 0 for none")
        if min(self.key, default=0) < 0:
            raise ValueError(f"key={self.key} must not hold negative numbers")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A part of a slide."""

    image_HWC: np.ndarray  # noqa: N815
    """(H, W, 3) uint8 RGB."""
    mask_HW: np.ndarray  # noqa: N815
    """(H, W) bool, True on functional tissue units, their lumens included."""
    lumen_HW: np.ndarray  # noqa: N815
    """(H, W) bool, True on the hollows of glands, crypts and alveoli, a part of the mask."""

    def __getitem__(self, place: tuple[slice, slice]) -> Picture:
        """The same rectangle of all three, without a copy."""
        return Picture(image_HWC=self.image_HWC[place], mask_HW=self.mask_HW[place], lumen_HW=self.lumen_HW[place])


def empty_picture(shape_hw: tuple[int, int]) -> Picture:
    """A picture to be filled."""
    return Picture(
        image_HWC=np.empty((*shape_hw, 3), dtype=np.uint8),
        mask_HW=np.empty(shape_hw, dtype=bool),
        lumen_HW=np.empty(shape_hw, dtype=bool),
    )


def copy_picture(target: Picture, source: Picture) -> None:
    """Copy all three parts of a picture into another of the same shape."""
    target.image_HWC[...] = source.image_HWC
    target.mask_HW[...] = source.mask_HW
    target.lumen_HW[...] = source.lumen_HW
