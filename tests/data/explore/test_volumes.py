"""What is seen of volumes: slices side by side are no copies, voxels are no pixels of slides, and faults stand out."""

import pytest
import tifffile

from histofold.data.check import check_folder
from histofold.data.explore.notices import volume_notices
from histofold.synth.sennet_2024.folder import make_sennet_2024


@pytest.fixture
def root(tmp_path):
    make_sennet_2024(tmp_path / "raw", shape_dhw=(8, 48, 52), progress=False)
    return tmp_path / "raw"


def test_whole_kidneys_give_one_notice_that_labels_are_partial(root):
    checked = check_folder(root)
    assert not checked.faults
    assert not checked.exploration.pairs
    assert len(checked.exploration.facts) == len(checked.samples) == 15
    (notice,) = checked.exploration.notices
    assert notice.ids == ("kidney_3_sparse",)
    assert "85% of its vessels are labelled" in notice.text


def test_slices_that_are_cut_off_or_not_there_are_faults_though_their_neighbours_would_mend_them(root):
    path = root / "train" / "kidney_1_dense" / "images" / "0003.tif"
    path.write_bytes(path.read_bytes()[:200])
    (root / "test" / "kidney_6" / "images" / "0002.tif").unlink()
    assert [fault.id for fault in check_folder(root).faults] == ["kidney_1_dense_0003", "kidney_6_0002"]


def test_a_slice_without_labels_among_labelled_ones_is_noticed_once_a_volume(root):
    folder = root / "train" / "kidney_1_dense"
    for number in (0, 4, 5):
        path = folder / "labels" / f"{number:04d}.tif"
        tifffile.imwrite(path, tifffile.imread(path) * 0)
    notices = [notice for notice in check_folder(root).exploration.notices if notice.kind == "no labels"]
    (notice,) = notices
    assert notice.ids == ("kidney_1_dense_0004",)
    assert "of kidney_1_dense_0004, kidney_1_dense_0005, between" in notice.text


def test_no_facts_give_no_notices():
    assert volume_notices([]) == []
