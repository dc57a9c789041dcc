"""Masks, probabilities and overlays as other programs read them."""

import cv2
import numpy as np
import pytest
import tifffile

from hard_masks import hard_masks
from histofold.core.rle.runs import runs_from_mask
from histofold.report.pictures.overlays import draw_rings
from histofold.report.results import masks
from histofold.report.results.masks import write_mask
from histofold.report.results.overlays import OVERLAY_SIDE, write_overlay
from histofold.report.results.probabilities import ProbabilityFile
from histofold.schema.sample import Sample


@pytest.mark.parametrize("band_px", [1, 97, 1 << 20])
def test_pngs_are_the_mask_whatever_the_bands(band_px, tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "BAND_PX", band_px)
    monkeypatch.setattr(masks, "COLUMNS_AT_ONCE", 5)
    for mask_HW in hard_masks(16, seed=6):
        write_mask(tmp_path / "a.png", runs_from_mask(mask_HW))
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), mask_HW * 255)
        other_HW = mask_HW[::-1, ::-1]
        write_mask(tmp_path / "a.png", (runs_from_mask(mask_HW), runs_from_mask(other_HW)))
        read_HW = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(read_HW, np.where(other_HW, 2, mask_HW))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("classes", [("ftu",), ("gland", "lumen", "ß")])
@pytest.mark.parametrize("shape_hw", [(1, 700), (515, 30), (1030, 513)])
def test_probabilities_are_tiles_with_their_pixel_size(classes, shape_hw, tmp_path):
    probs_KHW = np.random.default_rng(0).random((len(classes), *shape_hw), np.float32)
    path, again = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif"
    for each, band in ((path, 100), (again, 77)):
        file = ProbabilityFile(each, classes, shape_hw, 0.25)
        for top in range(0, shape_hw[0], band):
            file.add(probs_KHW[:, top : top + band])
        file.write()
    assert path.read_bytes() == again.read_bytes(), "bands leave no trace"
    with tifffile.TiffFile(path) as tiff:
        page, pixels = tiff.pages.first, tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (page.is_tiled, page.compression.name) == (True, "ADOBE_DEFLATE")
        assert page.resolution == (40000, 40000)
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeYUnit"], pixels["SizeC"]) == (0.25, "µm", len(classes))
        channels = pixels["Channel"] if len(classes) > 1 else [pixels["Channel"]]
        assert tuple(channel["Name"] for channel in channels) == classes
        levels_KHW = tiff.asarray().reshape(probs_KHW.shape)
    np.testing.assert_array_equal(levels_KHW, np.rint(probs_KHW * 255))
    assert len(list(tmp_path.iterdir())) == 2, "what was kept meanwhile is gone"


def test_rows_that_never_came_have_no_probability(tmp_path):
    file = ProbabilityFile(tmp_path / "a.ome.tif", ("a",), (600, 20), None)
    file.add(np.ones((1, 30, 20), np.float32))
    file.write()
    assert tifffile.imread(tmp_path / "a.ome.tif").sum() == 30 * 20 * 255


def test_overlays_show_each_class_on_a_small_picture(tmp_path):
    slide_HWC = np.full((OVERLAY_SIDE + 400, 300, 3), 230, np.uint8)
    cv2.imwrite(str(tmp_path / "slide.png"), slide_HWC)
    sample = Sample(id="slide", image_path=tmp_path / "slide.png")
    mask_HW = np.zeros(slide_HWC.shape[:2], bool)
    mask_HW[100:900, 50:200] = True
    runs, none = runs_from_mask(mask_HW), runs_from_mask(mask_HW & False)
    write_overlay(tmp_path / "one.png", sample, runs, ["a"])
    picture_HWC = cv2.imread(str(tmp_path / "one.png"))
    assert picture_HWC.shape[0] == OVERLAY_SIDE
    drawn_y, drawn_x = np.nonzero((picture_HWC != 230).any(axis=2))
    np.testing.assert_allclose([drawn_y.min(), drawn_y.max()], [80, 720], atol=5)
    np.testing.assert_allclose([drawn_x.min(), drawn_x.max()], [40, 160], atol=5)
    write_overlay(tmp_path / "two.png", sample, (runs, none), ["a", "b"])
    assert cv2.imread(str(tmp_path / "two.png")).shape[1] > 2 * picture_HWC.shape[1]


def test_an_object_of_one_pixel_stays_visible():
    picture_HWC = np.full((50, 40, 3), 230, np.uint8)
    draw_rings(picture_HWC, [np.array([[399, 499], [400, 499], [400, 500], [399, 500]])], (500, 400), (255, 0, 0))
    assert picture_HWC[-1, -1].tolist() == [255, 0, 0]
    assert (picture_HWC[:40] == 230).all()
