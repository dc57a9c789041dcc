"""Every kind of leak is told, and a clean dataset gives nothing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histofold.data.leaks import (
    STAMP_BYTES,
    find_leaks,
    forbidden_samples,
    image_stamp,
    run_leaks,
    same_files,
    seen_images,
)
from histofold.schema.sample import Sample
from small_datasets import small_record


@pytest.fixture
def clean(tmp_path):
    """Six images of three groups in three folds, two tiles each."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(6):
        path = tmp_path / f"{number}.tiff"
        path.write_bytes(rng.bytes(1000))
        samples.append(Sample(id=str(number), image_path=path, group=f"g{number // 2}"))
    folds = pd.DataFrame(
        {"id": [s.id for s in samples], "group": [s.group for s in samples], "fold": [0, 0, 1, 1, -1, -1]}
    )
    index = folds.loc[folds.index.repeat(2), ["id", "fold"]].assign(label_origin="real", label_fold=-1)
    return samples, folds, index.reset_index(drop=True)


def test_nothing_is_told_of_a_clean_dataset(clean):
    samples, folds, index = clean
    clusters = {"0": "0", "1": "0", "4": "4", "5": "4"}
    report = find_leaks(folds, samples, index=index, clusters=clusters)
    assert report.faults == []
    assert report.notices == []


def test_a_split_group_is_told_with_its_folds_and_ids(clean):
    samples, folds, _ = clean
    folds.loc[1, ["group", "fold"]] = ["other", 1]  # the file calls it another group, our own table does not
    (notice,) = find_leaks(folds, samples).notices
    assert "group g0" in notice
    assert "folds 0, 1" in notice
    assert "0, 1 score" in notice
    folds.loc[5, "group"] = "g1"  # and now the file's own groups are split, between a fold and what is always trained
    assert any("group g1 stands in folds -1, 1" in notice for notice in find_leaks(folds, samples).notices)


def test_near_duplicates_across_folds_are_told(clean):
    samples, folds, _ = clean
    notices = find_leaks(folds, samples, clusters={"0": "0", "3": "0", "4": "4", "5": "4"}).notices
    assert len(notices) == 1
    assert notices[0].startswith("near-duplicates of 0 stand in folds 0, 1: 0, 3")


def test_copies_of_a_file_are_told_wherever_they_stand(clean):
    samples, folds, _ = clean
    samples[3].image_path.write_bytes(samples[0].image_path.read_bytes())
    samples[5].image_path.write_bytes(samples[4].image_path.read_bytes())
    across, inside = find_leaks(folds, samples).notices
    assert "the file of 0 stands in folds 0, 1 under the ids 0, 3" in across
    assert "the file of 4 stands in fold -1 under the ids 4, 5" in inside


def test_many_notices_of_a_kind_are_cut_and_counted(tmp_path):
    samples = [Sample(id=str(i), image_path=tmp_path / "x", group=f"g{i % 30}") for i in range(60)]
    folds = pd.DataFrame({"id": [s.id for s in samples], "group": [s.group for s in samples], "fold": [0, 1] * 30})
    assert find_leaks(folds, samples).notices == [], "i and i + 30 are both even or both odd"
    folds["fold"] = [0] * 30 + [1] * 30
    notices = find_leaks(folds, samples).notices
    assert notices[-1] == "and 10 more of this kind"
    assert len(notices) == 21


@pytest.mark.parametrize(
    ("row", "column", "value", "words"),
    [
        (0, "fold", 1, "tiles of one image stand in folds 0, 1"),
        (slice(0, 1), "fold", 1, "tiles stand in fold 1 and folds.csv says 0"),
        (2, "id", "stranger", "of no image of folds.csv"),
        (0, "label_origin", "pseudo", "pseudo-labels in a fold"),
        (8, "label_origin", "pseudo", "pseudo-labels without label_fold"),
    ],
)
def test_tables_that_contradict_each_other_are_faults(clean, row, column, value, words):
    samples, folds, index = clean
    index.loc[row, column] = value
    faults = find_leaks(folds, samples, index=index).faults
    assert any(words in fault.rule for fault in faults)


@pytest.mark.parametrize("size", [0, 1, STAMP_BYTES, 3 * STAMP_BYTES + 7, 200 * STAMP_BYTES])
def test_a_stamp_is_of_the_bytes_and_not_of_the_name(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(data)
    second.write_bytes(data)
    assert image_stamp(first) == image_stamp(second) != ""
    second.write_bytes(data + b"x")
    assert image_stamp(first) != image_stamp(second)
    if size:
        for place in (0, size - 1):
            changed = bytearray(data)
            changed[place] ^= 1
            second.write_bytes(bytes(changed))
            assert image_stamp(first) != image_stamp(second), place
    assert image_stamp(tmp_path / "missing") == ""


def test_files_that_differ_between_the_pieces_of_a_stamp_are_not_copies(tmp_path):
    data = bytearray(np.random.default_rng(1).bytes(400 * STAMP_BYTES))
    paths = [tmp_path / name for name in "abc"]
    paths[0].write_bytes(bytes(data))
    paths[1].write_bytes(bytes(data))
    data[5 * STAMP_BYTES] ^= 1
    paths[2].write_bytes(bytes(data))
    assert image_stamp(paths[0]) == image_stamp(paths[2])
    samples = [Sample(id=path.name, image_path=path) for path in [*paths, tmp_path / "missing"]]
    assert same_files(samples) == {"a": "a", "b": "a"}


def test_what_a_network_may_not_have_seen_of_a_fold(clean):
    samples, folds, _ = clean
    late = Sample(id="late", image_path=Path("x"), group="g0")  # of a held-out donor, and not in folds.csv
    by_id = {s.id: s for s in [*samples, late]}
    assert [s.id for s in forbidden_samples(folds, by_id, 0)] == ["0", "1", "late"]
    assert [s.id for s in forbidden_samples(folds, by_id, 1)] == ["2", "3"]


def test_images_are_recognised_by_their_file_and_within_a_competition_by_their_id(clean, tmp_path):
    samples, _, _ = clean
    copy = tmp_path / "copy.tiff"
    copy.write_bytes(samples[0].image_path.read_bytes())
    renamed = {"somewhere/else": image_stamp(copy)}
    assert seen_images(renamed, "folder", samples, "hubmap_2022") == ["0"]
    named = {"1": "another encoding"}
    assert seen_images(named, "hubmap_2022", samples, "hubmap_2022") == ["1"]
    assert seen_images(named, "folder", samples, "folder") == [], "names of files in plain folders prove nothing"
    missing = [Sample(id="x", image_path=tmp_path / "missing")]
    assert seen_images({"y": ""}, "folder", missing, "folder") == [], "two missing files are not one"


def test_a_run_that_trained_on_what_it_was_scored_on_is_told(tmp_path):
    for fold, (trained, limit) in enumerate([({"a": "", "b": ""}, None), ({"c": ""}, None), ({"a": ""}, 1)]):
        small_record(tmp_path / f"fold{fold}", fold, dice_by_id={"a": 0.5}, trained_on=trained, limit=limit)
    (fault,) = run_leaks(tmp_path)
    assert fault.id == "fold0"
    assert "1 images that it was trained on: a" in fault.rule


@pytest.mark.parametrize("empty", [np.nan, ""])
def test_an_empty_label_fold_is_a_fault_and_no_crash(clean, empty):
    samples, folds, index = clean
    index["label_fold"] = index["label_fold"].astype(object)
    index.loc[8, ["label_origin", "label_fold"]] = ["pseudo", empty]
    index.loc[9, ["label_origin", "label_fold"]] = ["pseudo", "0"]
    (fault,) = find_leaks(folds, samples, index=index).faults
    assert fault.id == index.loc[8, "id"]
    assert "pseudo-labels without label_fold" in fault.rule
    faults = find_leaks(folds, samples, index=index.drop(columns="label_fold")).faults
    assert {fault.id for fault in faults} == set(index.loc[[8, 9], "id"])
