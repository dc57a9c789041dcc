"""Laws of the synthetic competition: same seed, same bytes; tables agree with files and truth with pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from histofold.core.rle.runs import decode_rle
from histofold.synth.files import TIFF_LAYOUTS, SynthKey, tiff_bytes
from histofold.synth.hubmap_2022.folder import (
    TEST_COLUMNS,
    TRAIN_COLUMNS,
    TRUTH_COLUMNS,
    make_hubmap_2022,
    mask_polygons,
)
from histofold.synth.hubmap_2022.options import SYNTH_ORGANS

MAX_SIDE = 360


def read_csv(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(10**8)
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SynthKey:
    root = tmp_path_factory.mktemp("synth") / "competition"
    return make_hubmap_2022(root, num_train=11, num_test=6, seed=3, max_side=MAX_SIDE, progress=False)


def all_rows(key: SynthKey) -> list[tuple[dict[str, str], Path]]:
    """Rows of both splits with their truth and the image's path."""
    train = [(row, key.root / "train_images" / f"{row['id']}.tiff") for row in read_csv(key.root / "train.csv")]
    test = [(row, key.root / "test_images" / f"{row['id']}.tiff") for row in read_csv(key.truth_path)]
    return train + test


def test_tables_have_the_hosts_columns_and_ids(key: SynthKey) -> None:
    train, test = read_csv(key.root / "train.csv"), read_csv(key.root / "test.csv")
    assert tuple(train[0]) == TRAIN_COLUMNS
    assert tuple(test[0]) == TEST_COLUMNS
    assert tuple(read_csv(key.truth_path)[0]) == TRUTH_COLUMNS
    assert tuple(row["id"] for row in train) == key.train_ids
    assert tuple(row["id"] for row in test) == key.test_ids
    submission = read_csv(key.root / "sample_submission.csv")
    assert [(row["id"], row["rle"]) for row in submission] == [(id_, "1 1") for id_ in key.test_ids]
    assert len({*key.train_ids, *key.test_ids}) == 17


def test_folder_holds_the_layout_and_nothing_else(key: SynthKey) -> None:
    expected = {"train.csv", "test.csv", "sample_submission.csv"}
    expected |= {f"train_images/{id_}.tiff" for id_ in key.train_ids}
    expected |= {f"train_annotations/{id_}.json" for id_ in key.train_ids}
    expected |= {f"test_images/{id_}.tiff" for id_ in key.test_ids}
    assert set(files_below(key.root)) == expected


def test_truth_of_test_is_nowhere_in_the_folder(key: SynthKey, tmp_path: Path) -> None:
    assert not key.truth_path.is_relative_to(key.root)
    contents = files_below(key.root)
    for row in read_csv(key.truth_path):
        assert not any(row["rle"].encode() in content for content in contents.values())
    with pytest.raises(ValueError, match="truth is hidden"):
        make_hubmap_2022(tmp_path, truth_path=tmp_path / "truth.csv", progress=False)
    assert not any(tmp_path.iterdir())


def test_sizes_agree_and_every_image_has_a_unit(key: SynthKey) -> None:
    shapes = []
    for row, path in all_rows(key):
        image = tifffile.imread(path)
        shape_hw = int(row["img_height"]), int(row["img_width"])
        assert image.shape == (*shape_hw, 3)
        assert image.dtype == np.uint8
        assert min(shape_hw) >= 160
        assert max(shape_hw) <= MAX_SIDE
        mask = decode_rle(row["rle"], shape_hw)
        assert mask.any(), row["id"]
        assert mask.mean() < 0.85
        shapes.append(shape_hw)
    assert any(height > width for height, width in shapes)
    assert any(height < width for height, width in shapes)


def test_every_organ_source_and_file_layout_occurs(key: SynthKey) -> None:
    rows = all_rows(key)
    assert {row["organ"] for row in read_csv(key.root / "train.csv")} == set(SYNTH_ORGANS)
    assert {row["data_source"] for row in read_csv(key.root / "train.csv")} == {"HPA"}
    assert {row["data_source"] for row in read_csv(key.root / "test.csv")} == {"HPA", "Hubmap"}
    found = set()
    for _, path in rows:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            found.add((page.is_tiled, page.compression.name))
            assert {"Software", "DateTime", "ImageDescription"}.isdisjoint(tag.name for tag in page.tags)
    assert found == {(True, "ADOBE_DEFLATE"), (False, "NONE"), (False, "LZW"), (True, "JPEG")}


def test_polygons_outline_the_truth(key: SynthKey) -> None:
    for row in read_csv(key.root / "train.csv"):
        shape_hw = int(row["img_height"]), int(row["img_width"])
        rings = json.loads((key.root / "train_annotations" / f"{row['id']}.json").read_text())
        drawn = np.zeros(shape_hw, dtype=np.uint8)
        for ring in rings:
            assert len(ring) >= 3
            cv2.fillPoly(drawn, [np.array(ring, dtype=np.int32)], color=1)
        mask = decode_rle(row["rle"], shape_hw)
        assert (mask & (drawn > 0)).sum() > 0.9 * (mask | (drawn > 0)).sum(), row["id"]


def test_polygons_of_a_mask_that_touches_corners() -> None:
    mask = np.zeros((9, 14), dtype=bool)
    mask[:4, :3] = mask[-4:, -5:] = True
    drawn = np.zeros(mask.shape, dtype=np.uint8)
    for ring in mask_polygons(mask):
        cv2.fillPoly(drawn, [np.array(ring, dtype=np.int32)], color=1)
    assert (drawn > 0).tolist() == mask.tolist()


def test_donors_have_at_most_three_images_of_one_split(key: SynthKey) -> None:
    rows = read_csv(key.root / "train.csv")
    assert all(key.donors[row["id"]] == row["patient"] for row in rows)
    counts = {
        donor: [row["patient"] for row in rows].count(donor) for donor in dict.fromkeys(row["patient"] for row in rows)
    }
    assert list(counts.values()) == [2, 3, 2, 3, 1]
    assert {key.donors[id_] for id_ in key.train_ids}.isdisjoint(key.donors[id_] for id_ in key.test_ids)
    for donor in counts:
        facts = {(row["age"], row["sex"]) for row in rows if row["patient"] == donor}
        assert len(facts) == 1
    assert all(row["sex"] == "Male" for row in rows if row["organ"] == "prostate")


def test_same_seed_same_bytes_and_an_image_needs_only_its_id(key: SynthKey, tmp_path: Path) -> None:
    root = tmp_path / "again"
    again = make_hubmap_2022(root, num_train=5, num_test=2, seed=3, max_side=MAX_SIDE, progress=False)
    assert again.train_ids == key.train_ids[:5]
    assert again.test_ids == key.test_ids[:2]
    content, former = files_below(root), files_below(key.root)
    images = [name for name in content if name.endswith((".tiff", ".json"))]
    assert len(images) == 12
    assert all(content[name] == former[name] for name in images)
    assert make_hubmap_2022(root, num_train=5, num_test=2, seed=3, max_side=MAX_SIDE, progress=False) == again
    assert files_below(root) == content


def test_another_seed_gives_other_images(key: SynthKey, tmp_path: Path) -> None:
    other = make_hubmap_2022(tmp_path / "c", num_train=2, num_test=1, seed=4, max_side=MAX_SIDE, progress=False)
    assert set(other.train_ids).isdisjoint(key.train_ids)
    ours, theirs = set(files_below(key.root).values()), set(files_below(other.root).values())
    assert len(theirs) == 2 * 2 + 1 + 3
    assert len(theirs - ours) >= 2 * 2 + 1 + 2


@pytest.mark.parametrize("wrong", [{"num_train": 1}, {"num_test": 0}, {"seed": -1}, {"max_side": 100}])
def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_hubmap_2022(tmp_path / "c", progress=False, **wrong)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("layout", list(TIFF_LAYOUTS))
def test_layouts_decode_to_what_was_encoded(layout: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.uniform(0, 255, (200, 331, 3)), (0, 0), 6) * 2 - 128
    image = np.clip(smooth + np.array([60, 0, -60]), 0, 255).astype(np.uint8)
    path = tmp_path / "image.tiff"
    path.write_bytes(tiff_bytes(image, layout))
    error = np.abs(tifffile.imread(path).astype(int) - image)
    if "jpeg" in layout:
        assert error.mean() < 2
    else:
        assert error.max() == 0
