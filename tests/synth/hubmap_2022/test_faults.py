"""What is planted is in the files and in the key, and nothing else is changed."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from scipy.ndimage import distance_transform_edt

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.rle.runs import decode_rle, encode_rle
from histofold.data.check import audit_folder
from histofold.synth.files import PlantedFault, SynthKey
from histofold.synth.hubmap_2022.folder import make_hubmap_2022, mask_polygons
from histofold.synth.hubmap_2022.habits import framed_mask
from histofold.synth.hubmap_2022.options import (
    COPY_FAULTS,
    DRAWING_FAULTS,
    ENCODING_FAULTS,
    FILE_FAULTS,
    HPA,
    SYNTH_ORGANS,
    TABLE_FAULTS,
    TRAIN_FAULTS,
    Planted,
)
from histofold.synth.hubmap_2022.plan import Quota, plan_splits

pytestmark = pytest.mark.slow

NUM_TRAIN, MAX_SIDE, SEED = 60, 260, 5
# Not every image has room for these: two objects, tissue beside them, glass.
SHARES = dict.fromkeys(TRAIN_FAULTS, 0.033) | dict.fromkeys(
    ("missing_objects", "extra_object", "blank_labelled"), 0.066
)
Rows = dict[str, dict[str, str]]


def make(root: Path, planted: Planted | None = None, num_train: int = NUM_TRAIN) -> SynthKey:
    return make_hubmap_2022(
        root, num_train=num_train, num_test=1, seed=SEED, max_side=MAX_SIDE, planted=planted, progress=False
    )


def read_rows(key: SynthKey) -> list[dict[str, str]]:
    csv.field_size_limit(10**8)
    with (key.root / "train.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def rows_by_id(key: SynthKey) -> Rows:
    return {row["id"]: row for row in read_rows(key)}


def image_path(key: SynthKey, name: str) -> Path:
    return key.root / "train_images" / f"{name}.tiff"


def polygons(key: SynthKey, name: str) -> list[list[list[int]]]:
    return json.loads((key.root / "train_annotations" / f"{name}.json").read_text())


def mask_of(row: dict[str, str]) -> np.ndarray:
    return decode_rle(row["rle"], (int(row["img_height"]), int(row["img_width"])))


def found(key: SynthKey, *kinds: str) -> list[tuple[str, PlantedFault]]:
    return [(name, fault) for name, faults in key.planted.items() for fault in faults if fault.kind in kinds]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    return make(tmp_path_factory.mktemp("clean") / "competition")


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    return make(tmp_path_factory.mktemp("spoilt") / "competition", Planted(faults=SHARES))


@pytest.fixture(scope="module")
def pairs(clean: SynthKey, spoilt: SynthKey) -> tuple[Rows, Rows]:
    return rows_by_id(clean), rows_by_id(spoilt)


def test_by_default_nothing_is_planted_and_the_audit_finds_nothing(clean: SynthKey) -> None:
    assert clean.planted == {}
    samples, faults = audit_folder(Hubmap2022(), clean.root, decode=True)
    assert faults == []
    assert [sample.id for sample in samples] == list(clean.train_ids)
    assert {row["id"]: row["rle"] for row in read_rows(clean)} == clean.clean_rles


def test_every_kind_is_planted_and_an_image_has_one_fault(spoilt: SynthKey) -> None:
    counts = Counter(fault.kind for faults in spoilt.planted.values() for fault in faults)
    assert set(counts) == set(TRAIN_FAULTS)
    assert max(counts.values()) <= 5
    assert {len(faults) for faults in spoilt.planted.values()} == {1}


def test_what_the_key_does_not_name_is_as_it_was(clean: SynthKey, spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    untouched = set(clean.train_ids) - set(spoilt.planted)
    assert len(untouched) >= 2
    for name in untouched:
        assert before[name] == after[name]
        assert image_path(clean, name).read_bytes() == image_path(spoilt, name).read_bytes()
        assert polygons(clean, name) == polygons(spoilt, name)
    assert spoilt.donors.keys() == clean.donors.keys()
    assert spoilt.truth_path.read_bytes() == clean.truth_path.read_bytes()


def test_drawing_faults_change_the_mask_and_its_polygons_only(
    clean: SynthKey, spoilt: SynthKey, pairs: tuple[Rows, Rows]
) -> None:
    before, after = pairs
    for name, _ in found(spoilt, *DRAWING_FAULTS):
        assert image_path(clean, name).read_bytes() == image_path(spoilt, name).read_bytes()
        assert {**before[name], "rle": ""} == {**after[name], "rle": ""}
        assert before[name]["rle"] == spoilt.clean_rles[name] != after[name]["rle"] != ""
        assert polygons(spoilt, name) == mask_polygons(mask_of(after[name]))


def test_missing_and_extra_objects(spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, "missing_objects"):
        old, new = mask_of(before[name]), mask_of(after[name])
        assert not (new & ~old).any()
        assert (old & ~new).sum() == fault.numbers["pixels"]
        objects = [cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 for mask in (old, new)]
        assert objects == [fault.numbers["of"], fault.numbers["of"] - fault.numbers["objects"]]
    for name, fault in found(spoilt, "extra_object"):
        old, new = mask_of(before[name]), mask_of(after[name])
        assert not (old & ~new).any()
        extra = new & ~old
        assert extra.sum() == fault.numbers["pixels"]
        assert extra[fault.numbers["y"], fault.numbers["x"]]
        assert distance_transform_edt(~extra)[old].min() > 1.5, "it touches no true object"


def test_a_shifted_mask_is_the_clean_one_moved(spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, "shifted"):
        old, new = mask_of(before[name]), mask_of(after[name])
        height, width = old.shape
        wide = np.pad(old, ((height, height), (width, width)))
        dy, dx = fault.numbers["dy"], fault.numbers["dx"]
        assert np.hypot(dy, dx) > 2
        assert np.array_equal(new, wide[height - dy : 2 * height - dy, width - dx : 2 * width - dx])


def test_thin_and_thick_masks_are_so_by_their_radius(spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, "eroded", "dilated"):
        old, new = mask_of(before[name]), mask_of(after[name])
        radius = fault.numbers["radius_px"]
        if fault.kind == "eroded":
            assert np.array_equal(new, distance_transform_edt(old) > radius)
        else:
            assert np.array_equal(new, distance_transform_edt(~old) <= radius)


def test_a_coarse_polygon_keeps_the_place_but_not_the_outline(spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, "coarse_polygon"):
        old, new = mask_of(before[name]), mask_of(after[name])
        assert 0.5 < (old & new).sum() / (old | new).sum() < 0.99
        assert fault.numbers["corners"] < sum(len(ring) for ring in mask_polygons(old))


def test_labels_on_blank_lie_on_glass_at_the_border(spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, "blank_labelled"):
        old, new = mask_of(before[name]), mask_of(after[name])
        assert not (old & ~new).any()
        added = new & ~old
        assert added.sum() == fault.numbers["pixels"]
        pixels = tifffile.imread(image_path(spoilt, name))[added].astype(int)
        assert pixels.mean() > 210
        assert np.mean(pixels.max(axis=1) - pixels.min(axis=1)) < 25


def test_the_mask_of_another_image(spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, "wrong_image"):
        other = mask_of(before[fault.numbers["mask_of"]])
        assert fault.numbers["mask_of"] != name
        new = mask_of(after[name])
        assert np.array_equal(new, framed_mask(other, new.shape))


def test_encoding_faults_leave_image_and_polygons(clean: SynthKey, spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, *ENCODING_FAULTS):
        assert image_path(clean, name).read_bytes() == image_path(spoilt, name).read_bytes()
        assert polygons(clean, name) == polygons(spoilt, name)
        old = mask_of(before[name])
        height, width = old.shape
        if fault.kind == "row_major":
            assert np.array_equal(decode_rle(after[name]["rle"], old.shape, order="C"), old)
        else:
            side = min(height, width)
            new = mask_of(after[name])
            assert np.array_equal(new[:side, :side], old[:side, :side].T)
            assert new[:width, :height].sum() == new.sum()


def test_table_faults_change_the_cells_that_they_name(
    clean: SynthKey, spoilt: SynthKey, pairs: tuple[Rows, Rows]
) -> None:
    before, after = pairs
    columns = {
        "odd_rle": {"rle"},
        "unsorted_rle": {"rle"},
        "rle_out_of_range": {"rle"},
        "no_rle": {"rle"},
        "wrong_size": {"img_height", "img_width"},
        "bad_pixel_size": {"pixel_size"},
        "unknown_organ": {"organ"},
        "duplicate_id": set(),
    }
    assert set(columns) == set(TABLE_FAULTS)
    times = Counter(row["id"] for row in read_rows(spoilt))
    for name, fault in found(spoilt, *TABLE_FAULTS):
        assert image_path(clean, name).read_bytes() == image_path(spoilt, name).read_bytes()
        assert polygons(clean, name) == polygons(spoilt, name)
        changed = {column for column, cell in before[name].items() if after[name][column] != cell}
        assert changed == columns[fault.kind]
        assert times[name] == (2 if fault.kind == "duplicate_id" else 1)
        for column, cell in fault.numbers.items():
            assert after[name][column] == cell


def test_file_faults_leave_a_part_or_nothing(clean: SynthKey, spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    before, after = pairs
    for name, fault in found(spoilt, *FILE_FAULTS):
        assert before[name] == after[name]
        path, whole = image_path(spoilt, name), image_path(clean, name).read_bytes()
        if fault.kind == "missing_image":
            assert not path.exists()
            continue
        assert path.read_bytes() == whole[: fault.numbers["bytes"]]
        assert fault.numbers["of"] == len(whole) > fault.numbers["bytes"]
        if fault.kind == "header_only_image":
            with tifffile.TiffFile(path) as tiff:
                assert tiff.pages[0].shape == tifffile.imread(image_path(clean, name)).shape
                assert min(tiff.pages[0].dataoffsets) == path.stat().st_size


def test_the_audit_names_what_is_formally_wrong_and_no_other_image(spoilt: SynthKey) -> None:
    _, faults = audit_folder(Hubmap2022(), spoilt.root, decode=True)
    planted = Counter(name for name, _ in found(spoilt, *TABLE_FAULTS, *FILE_FAULTS))
    assert Counter(fault.id for fault in faults) == planted


def test_near_copies_show_the_same_tissue(spoilt: SynthKey, pairs: tuple[Rows, Rows]) -> None:
    _, after = pairs
    copies = found(spoilt, *COPY_FAULTS)
    assert {fault.kind for _, fault in copies} == set(COPY_FAULTS)
    for name, fault in copies:
        original, numbers = fault.numbers["original"], fault.numbers
        assert original not in spoilt.planted
        row, source = after[name], after[original]
        assert [row[column] for column in ("organ", "data_source", "pixel_size", "tissue_thickness")] == [
            source[column] for column in ("organ", "data_source", "pixel_size", "tissue_thickness")
        ]
        assert (row["patient"] == source["patient"]) == (fault.kind == "near_duplicate")
        assert (row["patient"], source["patient"]) == (numbers["patient"], numbers["true_patient"])
        assert spoilt.donors[name] == spoilt.donors[original] == source["patient"]
        moved = np.s_[numbers["top"] :, numbers["left"] :]
        assert numbers["top"] + numbers["left"] > 0
        assert np.array_equal(mask_of(row), mask_of(source)[moved])
        assert row["rle"] == spoilt.clean_rles[name]
        image, before = tifffile.imread(image_path(spoilt, name)), tifffile.imread(image_path(spoilt, original))[moved]
        assert image.shape == before.shape
        assert not np.array_equal(image, before)
        smooth = [cv2.GaussianBlur(part.mean(axis=2), (0, 0), 1.5).ravel() for part in (image, before)]
        assert np.corrcoef(smooth)[0, 1] > 0.97


def test_more_images_change_none_of_those_before(spoilt: SynthKey, pairs: tuple[Rows, Rows], tmp_path: Path) -> None:
    fewer = make(tmp_path / "competition", Planted(faults=SHARES), num_train=11)
    assert fewer.train_ids == spoilt.train_ids[:11]
    assert fewer.planted == {name: spoilt.planted[name] for name in fewer.train_ids if name in spoilt.planted}
    assert len(fewer.planted) >= 5
    _, after = pairs
    for name, row in rows_by_id(fewer).items():
        assert row == after[name]
        if image_path(fewer, name).exists():
            assert image_path(fewer, name).read_bytes() == image_path(spoilt, name).read_bytes()


def test_habits_of_annotators(clean: SynthKey, tmp_path: Path) -> None:
    planted = Planted(lumen_excluded={"prostate": 1.0}, thin_labels={"kidney": 1.0, "lung": 0.5})
    key = make(tmp_path / "competition", planted, num_train=20)
    rows = rows_by_id(key)
    counts: Counter[tuple[str, str]] = Counter()
    for name, row in rows.items():
        for fault in key.planted.get(name, ()):
            counts[fault.kind, row["organ"]] += 1
        old, new = decode_rle(key.clean_rles[name], mask_of(row).shape), mask_of(row)
        assert encode_rle(old) == clean.clean_rles[name]
        assert image_path(key, name).read_bytes() == image_path(clean, name).read_bytes()
        assert np.array_equal(old, new) == (name not in key.planted)
        assert not (new & ~old).any()
        for fault in key.planted.get(name, ()):
            if fault.kind == "lumen_excluded":
                grey = tifffile.imread(image_path(key, name)).mean(axis=2)
                assert (old & ~new).sum() == fault.numbers["pixels"]
                assert grey[old & ~new].mean() > grey[new].mean() + 15, "a lumen is paler than its walls"
    assert counts["thin_labels", "kidney"] == 4
    assert counts["thin_labels", "lung"] == 2
    assert counts["lumen_excluded", "prostate"] >= 3
    assert len(counts) == 3


@pytest.mark.parametrize("share", [0.0, 0.07, 0.25, 1 / 3, 1.0])
def test_a_quota_keeps_its_share_all_along(share: float) -> None:
    quota = Quota({"kind": share}, {"kind": 0.3})
    dealt = np.cumsum([quota.draw(["kind"]) == "kind" for _ in range(60)])
    assert (np.abs(dealt - share * np.arange(1, 61)) <= 1 + 1e-9).all()


def test_a_quota_waits_for_an_image_that_allows_it() -> None:
    quota = Quota({"a": 0.5, "b": 0.5}, {"a": 0.1, "b": 0.7})
    first = [quota.draw(["b"]) for _ in range(10)]
    later = [quota.draw(["a", "b"]) for _ in range(10)]
    assert Counter(first)["b"] in (5, 6)
    assert "a" not in first
    assert Counter(later)["a"] >= 7


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
def test_a_fault_meets_every_organ_alike(share: float) -> None:
    """Organs come in turn: every fifth image would always be of the same one."""
    for seed in range(4):
        plans, _ = plan_splits(seed, (100, 1), 200, ((HPA,), (HPA,)), Planted(faults={"shifted": share}))
        organs = Counter(plan.spec.organ for plan in plans if plan.fault)
        assert set(organs) == set(SYNTH_ORGANS)
        assert max(organs.values()) - min(organs.values()) <= 1
        assert sum(organs.values()) == round(share * 100)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"faults": {"smudge": 0.1}}, "smudge not known; there are near_duplicate"),
        ({"artefacts": {"hair": 0.1}}, "hair not known; there are fold"),
        ({"faults": {"shifted": 0.7, "eroded": 0.6}}, "faults together"),
        ({"faults": {"shifted": -0.1}}, "shifted"),
        ({"jpeg": 1.5}, "jpeg"),
        ({"thin_labels": {"lung": 2}}, "lung"),
        ({"strength": 0}, "strength=0"),
    ],
)
def test_impossible_plans_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Planted(**wrong)
