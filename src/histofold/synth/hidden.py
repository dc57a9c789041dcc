"""Slides for a fake hidden set: what a competition's images look like, and drawing one of them."""

from __future__ import annotations

import numpy as np

from histofold.core.faults import Fault, InputError
from histofold.synth.drawing.slide import SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain
from histofold.synth.hubmap_2022.options import HPA, HUBMAP, SYNTH_ORGANS

_LEAST_SHRINK, _REAL_SIDE_PX = 0.2, 3000


def hidden_looks(competition: str, organs: tuple[str, ...] = ()) -> list[tuple[str, str, str, float]]:
    """Organ, source, stain and pixel size in um of a competition's images, each organ from each source in turn.

    Args:
        competition: Name of the adapter.
        organs: The organs that are wanted; all where none is given.

    Raises:
        InputError: If an organ is not one of the competition's.
    """
    known = ("kidney",) if competition == "kidney_2020" else SYNTH_ORGANS
    unknown = [organ for organ in organs if organ not in known]
    if unknown:
        remedy = f"known ones: {', '.join(known)}"
        raise InputError([Fault(organ, "organs", f"no organ of {competition}", remedy) for organ in unknown])
    looks = []
    for source in (HUBMAP, HPA):
        for organ in organs or known:
            stain, pixel_size_um, _ = source.of_organ(organ)
            looks.append((organ, source.name, stain, pixel_size_um))
    return looks[:1] if competition == "kidney_2020" else looks


class HiddenSlides:
    """Draws the images of a set with the synthetic slides of the package.

    Args:
        seed: Of the set.
        largest: Longest side of its images in pixels; smaller ones hold smaller objects.
    """

    def __init__(self, seed: int, largest: int) -> None:
        self._seed = seed
        self._shrink = min(max(largest / _REAL_SIDE_PX, _LEAST_SHRINK), 1.0)

    def __call__(self, number: int, look: tuple[str, str, str, float], shape_hw: tuple[int, int]) -> np.ndarray:
        """The image of a number as uint8 RGB (H, W, 3)."""
        key = (self._seed, number)
        organ, _, stain, pixel_size_um = look
        spec = SlideSpec(
            key=key,
            organ=organ,
            stain=draw_stain(np.random.default_rng(key), stain),
            shape_hw=shape_hw,
            pixel_size_um=pixel_size_um,
            shrink=self._shrink,
        )
        return SyntheticSlide(spec).whole().image_HWC
