"""Tissue is told from glass and from padding under the usual stains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histofold.imaging.slide import open_slide
from histofold.imaging.tissue import tissue_fraction, tissue_mask

BLANK = {
    "white": (255, 255, 255),
    "light grey": (238, 238, 238),
    "dim grey": (205, 206, 204),
    "faint green": (216, 222, 214),
    "faint pink": (248, 240, 246),
    "padding": (0, 0, 0),
}
TISSUE = {
    "eosin": (233, 168, 205),
    "pale eosin": (243, 222, 236),
    "haematoxylin": (92, 64, 140),
    "pale haematoxylin": (196, 204, 222),
    "DAB": (121, 82, 52),
    "pale DAB": (222, 208, 192),
    "PAS": (186, 92, 150),
    "dark nucleus": (40, 24, 60),
    "grey fold": (150, 150, 152),
}


def test_colours_of_glass_and_of_stains() -> None:
    for name, colour in BLANK.items():
        assert tissue_fraction(np.full((9, 13, 3), colour, np.uint8)) == 0, name
    for name, colour in TISSUE.items():
        assert tissue_fraction(np.full((9, 13, 3), colour, np.uint8)) == 1, name


@pytest.mark.parametrize("blank", BLANK)
def test_noise_of_the_camera_does_not_count(blank: str) -> None:
    noise_HWC = np.random.default_rng(0).normal(BLANK[blank], 4, (200, 300, 3))
    assert tissue_fraction(np.clip(noise_HWC, 0, 255).astype(np.uint8)) < 0.03


def test_mask_lies_where_the_tissue_is() -> None:
    image_HWC = np.full((60, 90, 3), 240, np.uint8)
    image_HWC[10:40, 20:80] = TISSUE["eosin"]
    image_HWC[:, 85:] = 0
    mask_HW = tissue_mask(image_HWC)
    assert mask_HW.shape == (60, 90)
    assert mask_HW.dtype == bool
    assert mask_HW[12:38, 22:78].all()
    assert not mask_HW[44:, :80].any()
    assert not mask_HW[:, 88:].any()


def test_odd_sizes_and_wrong_input() -> None:
    assert tissue_mask(np.full((1, 1, 3), 90, np.uint8)).all()
    assert tissue_fraction(np.zeros((0, 5, 3), np.uint8)) == 0
    for wrong in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32), np.zeros((5, 5, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8 RGB"):
            tissue_mask(wrong)


@pytest.mark.shared_data
def test_real_slides_are_mostly_tissue() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "glas_hubmap_layout" / "train_images"
    if not folder.is_dir():
        pytest.skip("the real slides are not beside the project")
    fractions = []
    for path in sorted(folder.glob("*.tiff"))[::8]:
        with open_slide(path) as slide:
            fractions.append(tissue_fraction(slide.read_all()))
    assert min(fractions) > 0.5
    assert max(fractions) > 0.95
