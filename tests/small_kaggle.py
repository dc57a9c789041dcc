"""A small /kaggle: hidden images of the competition of 2022, their tables, and weights."""

import shutil

import numpy as np
import tifffile

SLUG = "hubmap-organ-segmentation"


def make_kaggle(folder, package, ids):
    """Write it into a folder, random images for all ids; gives the folder."""
    root = folder / "input" / "competitions" / SLUG
    (root / "test_images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for key in ids:
        tifffile.imwrite(root / "test_images" / f"{key}.tiff", rng.integers(0, 255, (90, 120, 3), np.uint8))
    write_ids(folder, ids)
    (root / "test.csv").write_text("id,organ\n10,kidney\n")
    shutil.copytree(package, folder / "input" / "weights")
    (folder / "working").mkdir()
    return folder


def write_ids(folder, ids):
    """Write its sample_submission.csv anew."""
    path = folder / "input" / "competitions" / SLUG / "sample_submission.csv"
    path.write_text("".join(f"{line}\n" for line in ["id,rle", *(f"{key}," for key in ids)]))
