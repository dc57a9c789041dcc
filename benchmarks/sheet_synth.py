"""A sheet of the synthetic organs in the three stains, their truth outlined, beside real slides where there are any.

    python benchmarks/sheet_synth.py --out sheet.png [--real FOLDER_OF_A_2022_COMPETITION] [--no-truth]

With --real the first images of that folder stand in a last row, cut to the same field of view.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from histofold.competitions.registry import detect_competition
from histofold.imaging.slide import open_slide
from histofold.report.pictures.overlays import contact_sheet, draw_overlay, save_png
from histofold.synth.drawing.slide import ORGANS, SlideSpec, SyntheticSlide
from histofold.synth.drawing.tissue import draw_stain

STAINS = {"dab": "H-DAB", "eosin": "H&E", "pas": "PAS"}
FIELD_UM = 600.0
PIXEL_UM = 0.4


def synthetic_cell(organ: str, stain: str, seed: int, truth: bool) -> np.ndarray:
    """A piece of a slide of FIELD_UM a side, RGB uint8 (H, W, 3)."""
    side = round(FIELD_UM / PIXEL_UM)
    rng = np.random.default_rng([seed, *stain.encode()])
    spec = SlideSpec(
        key=(seed, ORGANS.index(organ)),
        organ=organ,
        stain=draw_stain(rng, stain),
        shape_hw=(2 * side, 2 * side),
        pixel_size_um=PIXEL_UM,
    )
    picture = SyntheticSlide(spec).read(slice(side // 2, side // 2 + side), slice(side // 2, side // 2 + side))
    return draw_overlay(picture.image_HWC, picture.mask_HW if truth else None, None, max_side=side)


def real_cells(root: Path, count: int, truth: bool) -> list[np.ndarray]:
    """The middle of the first images of a competition folder, FIELD_UM a side where they are as large."""
    competition = detect_competition(root)
    cells = []
    for sample in competition.samples(root, "train")[:count]:
        with open_slide(sample.image_path) as slide:
            image_HWC = slide.read_all()
        mask_HW = competition.target(sample).to_mask() if truth else None
        side = round(FIELD_UM / (sample.pixel_size_um or PIXEL_UM))
        y, x = (max(0, (length - side) // 2) for length in image_HWC.shape[:2])
        region = np.s_[y : y + side, x : x + side]
        cells.append(draw_overlay(image_HWC[region], None if mask_HW is None else mask_HW[region], None, max_side=side))
    return cells


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sheet_synth.png"))
    parser.add_argument("--real", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cell", type=int, default=480, help="pixels a side of a picture")
    parser.add_argument("--no-truth", action="store_true")
    options = parser.parse_args()
    truth = not options.no_truth
    images = [synthetic_cell(organ, stain, options.seed, truth) for stain in STAINS for organ in ORGANS]
    titles = [f"{organ}, {name}" for name in STAINS.values() for organ in ORGANS]
    if options.real:
        images += real_cells(options.real, len(ORGANS), truth)
        titles += ["real"] * (len(images) - len(titles))
    save_png(options.out, contact_sheet(images, titles, len(ORGANS), options.cell))
    print(f"{options.out}: {FIELD_UM:.0f} um a side")


if __name__ == "__main__":
    main()
