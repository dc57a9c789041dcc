"""The synthetic kidneys: trees after Murray, one anatomy at any voxel size, the host's layout, truth elsewhere."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import label

from histofold.competitions.registry import detect_competition
from histofold.core.rle.runs import class_runs, decode_rle
from histofold.synth.files import SynthKey, random_stream
from histofold.synth.sennet_2024.folder import (
    PLANS,
    VOLUME_FAULTS,
    make_sennet_2024,
    scan_of,
)
from histofold.synth.sennet_2024.kidney import grow_kidney, unlabelled_branches

SHAPE = (12, 64, 56)


def rows_of(path: Path) -> dict[str, str]:
    with path.open(newline="") as stream:
        return {row["id"]: row["rle"] for row in csv.DictReader(stream)}


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    root = tmp_path_factory.mktemp("kidneys") / "competition"
    return make_sennet_2024(root, shape_dhw=SHAPE, seed=1, test_faults=VOLUME_FAULTS[:2], progress=False)


def test_branches_follow_murray_and_begin_where_their_parent_ends():
    kidney = grow_kidney(random_stream(3), (2500.0, 8000.0, 7000.0))
    children: dict[int, list] = {}
    for branch in kidney.vessels:
        children.setdefault(branch.parent, []).append(branch)
    assert len(children.pop(-1)) == 2, "an artery and a vein"
    for parent, branches in children.items():
        above = kidney.vessels[parent]
        assert sum(branch.radius_um**3 for branch in branches) == pytest.approx(above.radius_um**3)
        assert all((branch.points[0] == above.points[-1]).all() for branch in branches)
    ends = [branch for place, branch in enumerate(kidney.vessels) if place not in children]
    assert {branch.tips for branch in ends} == {1}


def test_what_is_missed_is_whole_ends_of_trees():
    kidney = grow_kidney(random_stream(3), (2500.0, 8000.0, 7000.0))
    missed = unlabelled_branches(random_stream(4), kidney.vessels, 0.15)
    assert 0.15 <= len(missed) / len(kidney.vessels) < 0.2
    assert all(place in missed for place, branch in enumerate(kidney.vessels) if branch.parent in missed)
    assert not unlabelled_branches(random_stream(4), kidney.vessels, 0)


def test_one_kidney_at_two_voxel_sizes_has_about_one_volume_of_vessels():
    scans = [scan_of(replace(PLANS[0], voxel_um=voxel_um), 0, (30, 90, 80)) for voxel_um in (50.0, 63.08)]
    volumes, pieces = [], []
    for scan in scans:
        truth_DHW = np.stack([scan.slice_at(number).truth for number in range(scan.shape_dhw[0])])
        volumes.append(truth_DHW.sum() * scan.voxel_um**3)
        pieces.append(label(truth_DHW, np.ones((3, 3, 3)))[1])
    assert scans[1].shape_dhw == (24, 71, 63)
    assert volumes[0] == pytest.approx(volumes[1], rel=0.05)
    assert max(pieces) <= 2, "a tree is one piece, or both touch"


def test_hollow_vessels_are_darker_than_the_tissue_and_the_gel_is_darkest():
    scan = scan_of(PLANS[0], 0, (30, 90, 80))
    drawn = scan.slice_at(15)
    grey_HW = drawn.grey.astype(float)
    assert grey_HW[:4, :4].mean() < np.median(grey_HW[drawn.truth]) < grey_HW[40:50, 20:30].mean()
    assert grey_HW.min() >= 18_000
    again_HW = scan_of(PLANS[0], 0, (30, 90, 80)).slice_at(15).grey
    assert (again_HW == drawn.grey).all(), "a slice does not need those before it"


def test_the_adapter_reads_the_folder_and_its_truth(key):
    competition = detect_competition(key.root)
    assert competition.name == "sennet_2024"
    samples, faults = competition.inspect(key.root, "train")
    assert not faults
    assert [sample.id for sample in samples] == list(key.train_ids)
    assert {sample.id: sample.group for sample in samples}.items() <= key.donors.items()
    rows = rows_of(key.root / "train_rles.csv")
    for sample in samples:
        (truth,) = class_runs(competition.target(sample))
        dense = sample.id.replace("sparse", "dense")
        text = rows.get(dense, rows[sample.id])  # better labels take the place of the sparse ones
        assert competition.row(truth) == text
    assert any(rows[name.replace("dense", "sparse")] != text for name, text in rows.items() if "3_dense" in name)


def test_the_hidden_volume_is_coarser_and_its_truth_lies_outside(key):
    truth = rows_of(key.truth_path)
    assert list(truth) == list(rows_of(key.root / "sample_submission.csv")) == list(key.test_ids)
    samples = detect_competition(key.root).samples(key.root, "test")
    assert {sample.pixel_size_um for sample in samples} == {63.08}
    shape_hw = tifffile.imread(samples[0].image_path).shape
    assert sum(decode_rle("" if text == "1 0" else text, shape_hw, order="C").sum() for text in truth.values()) > 100
    with pytest.raises(ValueError, match="lies inside"):
        make_sennet_2024(key.root, truth_path=key.root / "truth.csv")


def test_faults_are_planted_in_the_hidden_volume_alone(key):
    assert [fault.kind for (fault,) in key.planted.values()] == list(VOLUME_FAULTS[:2])
    cut, missing = ((key.root / "test" / "kidney_6" / "images" / f"{name[-4:]}.tif") for name in key.planted)
    assert cut.stat().st_size < cut.with_stem("0000").stat().st_size
    assert not missing.exists()
    with pytest.raises(ValueError, match="test_faults"):
        make_sennet_2024(key.root, shape_dhw=SHAPE, test_faults=("melted",))


def test_same_seed_same_bytes_another_seed_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_sennet_2024(tmp_path / name, shape_dhw=(8, 48, 52), seed=seed, progress=False)
    files = {name: files_below(tmp_path / name) for name in ("a", "b", "c")}
    assert files["a"] == files["b"]
    assert (tmp_path / "a_truth.csv").read_bytes() == (tmp_path / "b_truth.csv").read_bytes()
    assert files["a"] != files["c"]
