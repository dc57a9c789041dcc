"""The same real slides as GlaS ships them, as COCO, as GeoJSON and as DSB-2018: the same masks."""

import numpy as np
import pytest

from histofold.competitions.registry import detect_competition
from histofold.core.metrics import dice
from histofold.data.check import audit_folder
from real_layouts import as_coco, as_dsb_2018, as_geojson, as_glas_ships, dsb_slides, glas_slides

pytestmark = pytest.mark.shared_data


def masks_in(root):
    competition = detect_competition(root)
    samples, faults = audit_folder(competition, root)
    assert (competition.name, faults) == ("folder", [])
    return {sample.id: competition.target(sample).to_mask() for sample in samples}


@pytest.fixture(scope="module")
def glands(shared_data):
    return list(glas_slides(shared_data, most=2))


@pytest.fixture(scope="module")
def nuclei(shared_data):
    return list(dsb_slides(shared_data, most=2))


@pytest.mark.parametrize("lay_out", [as_glas_ships, as_coco])
def test_labels_and_run_lengths_keep_every_pixel(glands, tmp_path, lay_out):
    lay_out(glands, tmp_path)
    masks = masks_in(tmp_path)
    assert sorted(masks) == sorted(key for key, _, _ in glands)
    for key, _, labels_HW in glands:
        np.testing.assert_array_equal(masks[key], labels_HW > 0)


def test_masks_of_single_nuclei_keep_every_pixel(nuclei, tmp_path):
    as_dsb_2018(nuclei, tmp_path)
    masks = masks_in(tmp_path)
    for key, _, labels_HW in nuclei:
        np.testing.assert_array_equal(masks[key], labels_HW > 0)


@pytest.mark.parametrize(("decimals", "least"), [(0, 0.995), (1, 1.0)])
def test_outlines_keep_every_pixel_but_for_their_rounding(glands, tmp_path, decimals, least):
    as_geojson(glands, tmp_path, decimals)
    masks = masks_in(tmp_path)
    for key, _, labels_HW in glands:
        assert dice(masks[key], labels_HW > 0) >= least
