import csv
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histofold.competitions.base import runs_dice
from histofold.competitions.hubmap_2022 import HUBMAP_2022_NEAR_DUPLICATES, Hubmap2022
from histofold.competitions.registry import detect_competition, get_competition
from histofold.core.faults import InputError
from histofold.core.metrics import dice
from histofold.core.rle.runs import encode_rle, runs_from_mask
from histofold.data.check import audit_folder

COLUMNS = ["id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness", "rle"]


def write_csv(path, columns, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([columns, *rows])


@pytest.fixture
def folder(tmp_path):
    """Four good training images and one test image, H != W, first and last pixel set."""
    (tmp_path / "train_images").mkdir()
    (tmp_path / "test_images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for key, organ in zip(("6730", "32741", "5", "007"), ("kidney", "kidney", "lung", "spleen"), strict=True):
        mask = rng.random((30, 41)) < 0.2
        mask[0, 0] = mask[-1, -1] = True
        tifffile.imwrite(tmp_path / "train_images" / f"{key}.tiff", rng.integers(0, 255, (30, 41, 3), np.uint8))
        rows.append([key, organ, "HPA", "30", "41", "0.4", "", encode_rle(mask)])
    write_csv(tmp_path / "train.csv", COLUMNS, rows)
    tifffile.imwrite(tmp_path / "test_images" / "9.tiff", rng.integers(0, 255, (20, 31, 3), np.uint8))
    write_csv(tmp_path / "test.csv", COLUMNS[:-1], [["9", "heart", "Mars", "20", "31", "nan", ""]])
    write_csv(tmp_path / "sample_submission.csv", ["id", "rle"], [["9", ""], ["404", ""]])
    return tmp_path


def change(folder, key, column, value):
    with (folder / "train.csv").open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    for row in rows:
        if row[0] == key:
            row[columns.index(column)] = value
    write_csv(folder / "train.csv", columns, rows)


def test_samples_and_targets(folder):
    competition = Hubmap2022()
    samples = competition.samples(folder, "train")
    assert [s.id for s in samples] == ["6730", "32741", "5", "007"]
    assert samples[0].shape_hw == (30, 41)
    assert samples[0].pixel_size_um == 0.4
    mask = competition.target(samples[0]).to_mask()
    assert mask.shape == (30, 41)
    assert mask[0, 0]
    assert mask[-1, -1]
    assert audit_folder(competition, folder)[1] == []


def test_near_duplicates_share_a_group_and_patients_win(folder):
    samples = Hubmap2022().samples(folder, "train")
    assert samples[0].group == samples[1].group != samples[2].group
    with (folder / "train.csv").open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    rows = [[*row, patient] for row, patient in zip(rows, ("a", "b", "a", ""), strict=True)]
    write_csv(folder / "train.csv", [*columns, "patient"], rows)
    assert [s.group for s in Hubmap2022().samples(folder, "train")] == ["a", "b", "a", "007"]


def test_near_duplicate_clusters_are_disjoint():
    ids = [key for cluster in HUBMAP_2022_NEAR_DUPLICATES for key in cluster]
    assert len(ids) == len(set(ids)) == 17


def test_test_samples_follow_the_sample_submission(folder):
    known, unknown = Hubmap2022().samples(folder, "test")
    assert (known.id, known.organ, known.source, known.pixel_size_um) == ("9", "heart", "Mars", None)
    assert known.shape_hw == (20, 31)
    assert (unknown.id, unknown.organ, unknown.pixel_size_um, unknown.shape_hw) == ("404", "", None, None)
    (folder / "test.csv").unlink()
    assert [s.id for s in Hubmap2022().samples(folder, "test")] == ["9", "404"]


def test_things_that_are_no_faults(folder):
    """Extra columns, unknown source, no thickness, no annotations, an id in both splits."""
    change(folder, "5", "data_source", "Elsewhere")
    shutil.copy(folder / "train_images" / "5.tiff", folder / "test_images" / "5.tiff")
    write_csv(folder / "sample_submission.csv", ["id", "rle"], [["5", ""]])
    assert audit_folder(Hubmap2022(), folder)[1] == []


@pytest.mark.parametrize(
    ("key", "column", "value", "words"),
    [
        ("5", "rle", "", "no rle"),
        ("5", "rle", "nan", "no rle"),
        ("5", "rle", "5 1 3 1", "malformed rle"),
        ("5", "rle", "1 99999", "malformed rle"),
        ("5", "rle", "1 2 3", "malformed rle"),
        ("5", "rle", "0 2", "malformed rle"),
        ("5", "rle", "1 x", "malformed rle"),
        ("5", "pixel_size", "0", "pixel_size"),
        ("5", "pixel_size", "-0.4", "pixel_size"),
        ("5", "pixel_size", "", "pixel_size"),
        ("5", "organ", "heart", "organ 'heart'"),
        ("5", "img_height", "41", "table says"),
        ("5", "img_width", "many", "not positive numbers"),
        ("5", "id", "007", "duplicate id"),
        ("5", "id", "6", "no such file"),
    ],
)
def test_each_fault_of_a_row_is_named(folder, key, column, value, words):
    change(folder, key, column, value)
    faults = audit_folder(Hubmap2022(), folder)[1]
    assert any(words in str(fault) for fault in faults), [str(fault) for fault in faults]
    named = {value, key} if column == "id" else {key}
    assert all(fault.id in named for fault in faults)


def test_all_faults_at_once_of_tables_and_images(folder):
    change(folder, "5", "rle", "")
    change(folder, "6730", "pixel_size", "0")
    (folder / "train_images" / "007.tiff").unlink()
    (folder / "train_images" / "32741.tiff").write_bytes(b"II*\0")
    faults = audit_folder(Hubmap2022(), folder)[1]
    assert {fault.id for fault in faults} == {"5", "6730", "007", "32741"}
    assert all(fault.file and fault.rule and fault.remedy for fault in faults)


@pytest.mark.parametrize("column", ["id", "organ", "pixel_size", "rle", "img_width"])
def test_missing_columns_are_named(folder, column):
    with (folder / "train.csv").open(newline="") as stream:
        table = list(csv.reader(stream))
    place = table[0].index(column)
    write_csv(folder / "train.csv", *((lambda t: (t[0], t[1:]))([r[:place] + r[place + 1 :] for r in table])))
    with pytest.raises(InputError, match=f"{column}.*missing column"):
        Hubmap2022().samples(folder, "train")


def test_missing_folders_and_tables_are_named(folder):
    with pytest.raises(InputError, match="no such folder"):
        Hubmap2022().samples(Path("nowhere"), "train")
    shutil.rmtree(folder / "train_images")
    with pytest.raises(InputError, match="train_images"):
        Hubmap2022().samples(folder, "train")
    (folder / "sample_submission.csv").unlink()
    with pytest.raises(InputError, match="sample_submission"):
        Hubmap2022().samples(folder, "test")


def test_score_is_the_mean_of_dice_and_a_missing_row_is_an_empty_one():
    rng = np.random.default_rng(1)
    masks = {key: rng.random((13, 29)) < 0.4 for key in "abcd"}
    others = {key: rng.random((13, 29)) < 0.4 for key in "abcd"}
    others["d"][:] = masks["d"][:] = False
    predictions = {key: runs_from_mask(mask) for key, mask in others.items() if key != "c"}
    targets = {key: runs_from_mask(mask) for key, mask in masks.items()}
    score = Hubmap2022().score(predictions, targets)
    expected = [dice(others["a"], masks["a"]), dice(others["b"], masks["b"]), 0.0, 1.0]
    assert score.mean == pytest.approx(np.mean(expected))
    assert score.by_id["d"] == 1.0


def test_dice_of_runs_is_dice_of_masks():
    rng = np.random.default_rng(2)
    for _ in range(200):
        shape = tuple(rng.integers(1, 25, 2))
        first, second = (rng.random(shape) < rng.random() for _ in range(2))
        assert runs_dice(runs_from_mask(first), runs_from_mask(second)) == pytest.approx(dice(first, second))


def test_a_prediction_of_another_size_is_refused():
    runs = runs_from_mask(np.ones((2, 3), bool))
    with pytest.raises(InputError, match="own size"):
        Hubmap2022().score({"a": runs}, {"a": runs_from_mask(np.ones((3, 2), bool))})


def test_detection_by_files_and_headers(folder, tmp_path):
    assert detect_competition(folder).name == "hubmap_2022"
    (folder / "train.csv").unlink()
    assert detect_competition(folder).name == "hubmap_2022"
    other = tmp_path / "own"
    (other / "images").mkdir(parents=True)
    assert detect_competition(other).name == "folder"
    with pytest.raises(InputError, match="layout"):
        detect_competition(other / "images")
    with pytest.raises(InputError, match="known ones: hubmap_2022, folder"):
        get_competition("hubmap")


def test_real_labels_are_read(shared_data, tmp_path):
    import gzip

    with gzip.open(shared_data / "hubmap2022_labels" / "train_rebuilt.csv.gz", "rb") as packed:
        (tmp_path / "train.csv").write_bytes(packed.read())
    (tmp_path / "train_images").mkdir()
    samples, faults = Hubmap2022().inspect(tmp_path, "train")
    assert len(samples) == 351
    assert faults == []


def test_a_duplicate_and_a_missing_column_hide_no_other_fault(folder):
    with (folder / "train.csv").open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    rows[1][columns.index("organ")] = "heart"
    rows[2][columns.index("rle")] = "9 1 3 1"
    rows.append([*rows[3]])
    drop = columns.index("img_width")
    write_csv(folder / "train.csv", columns[:drop] + columns[drop + 1 :], [r[:drop] + r[drop + 1 :] for r in rows])
    (folder / "train_images" / "6730.tiff").unlink()
    samples, faults = audit_folder(Hubmap2022(), folder)
    assert [s.id for s in samples] == ["6730", "32741", "5", "007"]
    assert sorted((fault.id, fault.rule.split(":")[0]) for fault in faults) == [
        ("007", "duplicate id"),
        ("32741", "organ 'heart' is not known"),
        ("5", "malformed rle"),
        ("6730", "no such file"),
        ("img_width", "missing column"),
    ]


def test_a_trailing_comma_in_rows_shifts_nothing(folder):
    lines = (folder / "train.csv").read_text().splitlines()
    (folder / "train.csv").write_text("\n".join([lines[0], *(f"{line}," for line in lines[1:])]))
    samples, faults = audit_folder(Hubmap2022(), folder)
    assert faults == []
    assert [s.id for s in samples] == ["6730", "32741", "5", "007"]


def test_image_faults_name_path_and_remedy_once(folder):
    (folder / "train_images" / "5.tiff").write_bytes(b"")
    (fault,) = audit_folder(Hubmap2022(), folder)[1]
    assert str(fault).count("5.tiff") == 1
    assert str(fault).count(fault.remedy) == 1


def test_a_target_that_is_not_there_is_no_further_fault(folder):
    change(folder, "5", "rle", "")
    competition = Hubmap2022()
    samples, _ = competition.inspect(folder, "train")
    with pytest.raises(InputError, match=r"5: train\.csv gave no truth") as caught:
        competition.target(samples[2])
    assert caught.value.faults == []


def test_faults_of_a_test_split_are_logged_and_metadata_kept(folder, caplog):
    write_csv(folder / "sample_submission.csv", ["id", "rle"], [["9", ""], ["9", ""]])
    write_csv(folder / "test.csv", ["id", "organ", "img_height"], [["9", "lung", "20"], ["9", "spleen", "1"]])
    with caplog.at_level(logging.WARNING, logger="histofold"):
        (sample,) = Hubmap2022().samples(folder, "test")
    assert (sample.organ, sample.shape_hw) == ("lung", None)
    assert caplog.text.count("duplicate id") == 2
    assert "pixel_size" in caplog.text
    (folder / "test.csv").write_bytes(b"\xff\xfe\0")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="histofold"):
        assert [s.organ for s in Hubmap2022().samples(folder, "test")] == [""]
    assert "not a csv table" in caplog.text


def test_detection_of_a_table_that_is_none(folder):
    (folder / "train.csv").write_bytes(b"\0" * 200_000)
    with pytest.raises(InputError):
        Hubmap2022().samples(folder, "train")
    assert detect_competition(folder).name == "hubmap_2022"


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_that_a_spreadsheet_saved_is_the_same(folder, separator):
    """Other separator, UTF-16, blanks and capitals in the header, a decimal comma."""
    before = Hubmap2022()
    wanted = before.samples(folder, "train")
    text = (folder / "train.csv").read_text()
    header, rows = text.split("\n", 1)
    header = header.replace("pixel_size", " Pixel Size ").replace("organ", "Organ")
    text = f"{header}\n{rows.replace('0.4', '0;4')}".replace(";", "\0").replace(",", separator).replace("\0", ",")
    (folder / "train.csv").write_text(text, encoding="utf-16")
    assert detect_competition(folder).name == "hubmap_2022"
    after = Hubmap2022()
    assert after.samples(folder, "train") == wanted
    assert all(after.target(sample) == before.target(sample) for sample in wanted)
    assert len(after.notices) == 1


def test_a_column_that_looks_like_the_patients_is_no_fault_and_named(folder):
    with (folder / "train.csv").open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    write_csv(folder / "train.csv", [*columns, "patient_id", "scanner"], [[*row, "p", "s"] for row in rows])
    competition = Hubmap2022()
    assert competition.inspect(folder, "train")[1] == []
    assert ["'patient_id' is not read: it looks like 'patient'" in notice.rule for notice in competition.notices] == [
        True
    ]


def test_a_hidden_id_that_leaves_its_folder_gets_no_image(folder):
    write_csv(folder / "sample_submission.csv", ["id", "rle"], [["../train_images/5", ""], ["9", ""]])
    beyond, known = Hubmap2022().samples(folder, "test")
    assert beyond.id == "../train_images/5"
    assert not beyond.image_path.exists()
    assert known.image_path.is_file()


def test_an_organ_s_rows_of_objects_are_joined(folder):
    wanted = Hubmap2022()
    (sample,) = [s for s in wanted.samples(folder, "train") if s.id == "5"]
    with (folder / "train.csv").open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    (row,) = [row for row in rows if row[0] == "5"]
    pairs = row[-1].split()
    halves = [" ".join(pairs[:40]), " ".join(pairs[20:])]  # they overlap
    rows.remove(row)
    write_csv(folder / "train.csv", columns, [*rows, *([*row[:-1], half] for half in halves)])
    competition = Hubmap2022()
    assert competition.inspect(folder, "train")[1] == []
    assert competition.target(sample) == wanted.target(sample)
