"""Pictures that several verbs make."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from histoseg.core.rle import Runs
from histoseg.imaging.resample import ScaledSlide, resample_mask_region
from histoseg.imaging.slide import open_slide
from histoseg.report.overlays import draw_overlay

PICTURE_SIDE = 900


def sample_tiles(dataset: Path, index: pd.DataFrame, each: int = 2) -> list[tuple[str, np.ndarray]]:
    """Some tiles of every bin with their masks outlined, as (title, uint8 HWC)."""
    pictures = []
    for name, part in index.groupby("bin", sort=False):
        for row in part.iloc[np.linspace(0, len(part) - 1, min(each, len(part))).astype(int)].to_dict("records"):
            image_BGR = cv2.imread(str(dataset / "images" / f"{row['tile_id']}.png"), cv2.IMREAD_COLOR)
            mask_HW = cv2.imread(str(dataset / "masks" / f"{row['tile_id']}.png"), cv2.IMREAD_GRAYSCALE) > 0
            overlay = draw_overlay(cv2.cvtColor(image_BGR, cv2.COLOR_BGR2RGB), mask_HW, None)
            pictures.append((f"{row['tile_id']} · {name} ({row['mask_fraction']:.0%})", overlay))
    return pictures


def slide_overlay(path: Path, truth: Runs | None, prediction: Runs | None) -> np.ndarray:
    """A slide at picture size with truth and prediction outlined, uint8 HWC; read and decoded by region."""
    with open_slide(path) as slide:
        zoom = min(1.0, PICTURE_SIDE / max(slide.shape_hw))
        height, width = (max(1, round(side * zoom)) for side in slide.shape_hw)
        everything = slice(0, height), slice(0, width)
        image_HWC = ScaledSlide(slide, (height, width)).read(*everything)
        masks = [
            None if runs is None else resample_mask_region(runs.to_window, slide.shape_hw, (height, width), *everything)
            for runs in (truth, prediction)
        ]
    return draw_overlay(image_HWC, *masks, max_side=PICTURE_SIDE)
