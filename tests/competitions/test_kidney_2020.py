import csv
import json
import logging
import shutil

import numpy as np
import pytest
import tifffile

from histofold.commands.main import main
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.competitions.kidney_2020 import KIDNEY_2020_INFORMATION, Kidney2020
from histofold.competitions.outlines import read_outlines
from histofold.competitions.registry import detect_competition, get_competition
from histofold.core.faults import InputError
from histofold.core.metrics import dice
from histofold.core.rle.runs import encode_rle, runs_from_mask
from histofold.data.check import audit_folder
from histofold.imaging.tiff.pages import tiff_pixel_size_um
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, PredictConfig, TrainConfig
from histofold.schema.parse import to_toml
from histofold.schema.preprocessing import Preprocessing
from small_datasets import SMALL_UNET

SHAPE = (30, 41)
IDS = ("1e2425f28", "2f6ecfcdf", "007", "1e5")  # two of them look like numbers
PATIENTS = ("63921", "63921", "68250", "67177")
FACTS = [
    *("image_file", "width_pixels", "height_pixels", "anatomical_structures_segmention_file"),
    *("glomerulus_segmentation_file", "patient_number", "race", "ethnicity", "sex", "age", "weight_kilograms"),
    *("height_centimeters", "bmi_kg/m^2", "laterality", "percent_cortex", "percent_medulla"),
]


def write_csv(path, columns, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


def read_csv(path):
    with path.open(newline="") as stream:
        columns, *rows = csv.reader(stream)
    return columns, rows


def change(path, key, column, value):
    """Write a value into the rows whose first cell is the key."""
    columns, rows = read_csv(path)
    for row in rows:
        if row[0] == key:
            row[columns.index(column)] = value
    write_csv(path, columns, rows)


def drop_column(path, column):
    columns, rows = read_csv(path)
    place = columns.index(column)
    write_csv(path, columns[:place] + columns[place + 1 :], [row[:place] + row[place + 1 :] for row in rows])


def feature(name, coordinates, kind="Polygon"):
    return {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"classification": {"name": name, "colorRGB": -1}, "isLocked": False, "measurements": []},
    }


SQUARE = [[0, 0], [40, 0], [40, 9], [0, 9], [0, 0]]


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    masks = {key: rng.random(SHAPE) < 0.2 for key in IDS}
    for mask in masks.values():
        mask[0, 0] = mask[-1, -1] = True
    return masks


@pytest.fixture
def folder(tmp_path, masks):
    """Four good training slides of three patients and two hidden ones, H != W, first and last pixel set."""
    root = tmp_path / "kidney"
    rng = np.random.default_rng(1)
    for place, keys in (("train", IDS), ("test", ("b9a3865fc", "404e1"))):
        (root / place).mkdir(parents=True)
        for key in keys:
            image = rng.integers(0, 255, (*SHAPE, 3), np.uint8)
            tifffile.imwrite(root / place / f"{key}.tiff", image, resolution=(20_000, 20_000), resolutionunit=3)
            outlines = json.dumps([feature("Cortex", [SQUARE]), feature("Medulla", [SQUARE])])
            (root / place / f"{key}-anatomical-structure.json").write_text(outlines)
    write_csv(root / "train.csv", ["id", "encoding"], [[key, encode_rle(masks[key])] for key in IDS])
    write_csv(root / "sample_submission.csv", ["id", "predicted"], [["b9a3865fc", ""], ["404e1", ""], ["hidden", ""]])
    rows = [
        [f"{key}.tiff", SHAPE[1], SHAPE[0], "", "", patient, *[""] * 10]
        for key, patient in zip((*IDS, "b9a3865fc"), (*PATIENTS, "70000"), strict=True)
    ]
    write_csv(root / KIDNEY_2020_INFORMATION, FACTS, rows)
    return root


def test_samples_and_targets(folder, masks):
    competition = Kidney2020()
    samples, faults = audit_folder(competition, folder, decode=True)
    assert faults == []
    assert tuple(sample.id for sample in samples) == IDS
    assert tuple(sample.group for sample in samples) == PATIENTS
    assert {(sample.organ, sample.shape_hw, sample.pixel_size_um) for sample in samples} == {("kidney", SHAPE, 0.5)}
    for sample in samples:
        np.testing.assert_array_equal(competition.target(sample).to_mask(), masks[sample.id])
        window = competition.target(sample).to_window(slice(3, 30), slice(0, 17))
        np.testing.assert_array_equal(window, masks[sample.id][3:30, :17])


def test_test_samples_follow_the_sample_submission(folder):
    known, unlisted, hidden = Kidney2020().samples(folder, "test")
    assert (known.id, known.group, known.shape_hw, known.pixel_size_um) == ("b9a3865fc", "70000", SHAPE, 0.5)
    assert (unlisted.id, unlisted.group, unlisted.shape_hw) == ("404e1", "404e1", None)
    assert (hidden.image_path, hidden.pixel_size_um) == (folder / "test" / "hidden.tiff", 0.5)


def test_without_the_dataset_information_sizes_come_from_the_files(folder, masks, caplog):
    (folder / KIDNEY_2020_INFORMATION).unlink()
    competition = Kidney2020()
    with caplog.at_level(logging.WARNING, logger="histofold"):
        samples, faults = audit_folder(competition, folder)
    assert faults == []
    assert [sample.group for sample in samples] == list(IDS)
    assert [sample.shape_hw for sample in samples] == [None] * 4
    np.testing.assert_array_equal(competition.target(samples[3]).to_mask(), masks["1e5"])
    assert "no patients are known" in caplog.text
    assert [sample.id for sample in Kidney2020().samples(folder, "test")] == ["b9a3865fc", "404e1", "hidden"]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("encoding", "", "no encoding"),
        ("encoding", "NaN", "no encoding"),
        ("encoding", "5 1 3 1", "sorted"),
        ("encoding", "1 3 2 1", "malformed encoding"),
        ("encoding", "1 99999", "ends beyond"),
        ("encoding", "1231 1", "ends beyond"),
        ("encoding", "1 2 3", "malformed encoding"),
        ("encoding", "0 2", "malformed encoding"),
        ("encoding", "1 x", "malformed encoding"),
        ("id", "007", "duplicate id"),
        ("id", "elsewhere", "no such file"),
        ("id", "../train/elsewhere", "no such file"),
        ("id", "x" * 300, "cannot be opened"),
        ("id", "", "row without an id"),
    ],
)
def test_each_fault_of_a_training_row_is_named(folder, column, value, words):
    change(folder / "train.csv", "2f6ecfcdf", column, value)
    faults = audit_folder(Kidney2020(), folder)[1]
    assert any(words in str(fault) for fault in faults), [str(fault) for fault in faults]
    named = {value, "line 3"} if column == "id" else {"2f6ecfcdf"}
    assert {fault.id for fault in faults} <= named


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("width_pixels", "many", "not positive numbers"),
        ("height_pixels", "0", "not positive numbers"),
        ("height_pixels", "41", "table says"),
        ("patient_number", " ", "no patient_number"),
        ("image_file", "other.tiff", "no row of this slide"),
        ("image_file", "007.tiff", "two rows of this image_file"),
    ],
)
def test_each_fault_of_the_dataset_information_is_named(folder, column, value, words):
    change(folder / KIDNEY_2020_INFORMATION, "2f6ecfcdf.tiff", column, value)
    faults = audit_folder(Kidney2020(), folder)[1]
    assert any(words in str(fault) for fault in faults), [str(fault) for fault in faults]
    assert {fault.id for fault in faults} <= {"2f6ecfcdf", "007"}


def test_all_faults_at_once_of_tables_images_and_outlines(folder):
    change(folder / "train.csv", "1e5", "encoding", "9 1 3 1")
    change(folder / KIDNEY_2020_INFORMATION, "007.tiff", "patient_number", "")
    (folder / "train" / "2f6ecfcdf.tiff").unlink()
    (folder / "train" / "1e2425f28-anatomical-structure.json").write_text("[{")
    (folder / "train" / "007.json").write_text('{"features": 3}')
    drop_column(folder / KIDNEY_2020_INFORMATION, "width_pixels")
    faults = audit_folder(Kidney2020(), folder)[1]
    assert sorted((fault.id, fault.rule.split(":")[0].split(" (")[0]) for fault in faults) == [
        ("007", "no list of features"),
        ("007", "no patient_number"),
        ("1e2425f28", "not JSON"),
        ("1e5", "malformed encoding"),
        ("2f6ecfcdf", "no such file"),
        ("width_pixels", "missing column"),
    ]
    assert all(fault.file and fault.remedy for fault in faults)
    with pytest.raises(InputError) as caught:
        Kidney2020().samples(folder, "train")
    assert len(caught.value.faults) == len(faults) - 1, "a missing image is the audit's to find"


@pytest.mark.parametrize("column", ["id", "encoding"])
def test_missing_columns_of_train_are_named(folder, column):
    drop_column(folder / "train.csv", column)
    assert detect_competition(folder).name == "kidney_2020"
    with pytest.raises(InputError, match=f"{column}.*missing column"):
        Kidney2020().samples(folder, "train")


def test_missing_folders_and_tables_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Kidney2020().samples(tmp_path / "nowhere", "train")
    shutil.rmtree(folder / "train")
    (folder / "train.csv").unlink()
    (folder / KIDNEY_2020_INFORMATION).write_text("")
    faults = Kidney2020().inspect(folder, "train")[1]
    assert {fault.id for fault in faults} == {"train", "HuBMAP-20-dataset_information"}
    assert len(faults) == 3
    (folder / "sample_submission.csv").write_text("id,rle\n1,\n")
    with pytest.raises(InputError, match=r"predicted.*missing column"):
        Kidney2020().samples(folder, "test")


def test_faults_of_a_test_split_are_only_logged(folder, caplog):
    (folder / KIDNEY_2020_INFORMATION).write_bytes(b"\xff\xfe\0")
    with caplog.at_level(logging.WARNING, logger="histofold"):
        samples = Kidney2020().samples(folder, "test")
    assert [sample.shape_hw for sample in samples] == [None] * 3
    assert "not a csv table" in caplog.text


def test_things_that_are_no_faults(folder):
    """Extra columns, no outlines, an outline without a region, more rows than slides."""
    columns, rows = read_csv(folder / "train.csv")
    write_csv(folder / "train.csv", [*columns, "notes"], [[*row, "seen"] for row in rows])
    columns, rows = read_csv(folder / KIDNEY_2020_INFORMATION)
    write_csv(folder / KIDNEY_2020_INFORMATION, columns, [*rows, ["unknown.tiff", *[""] * 15]])
    (folder / "train" / "007-anatomical-structure.json").write_text("[]")
    (folder / "train" / "1e5-anatomical-structure.json").unlink()
    assert audit_folder(Kidney2020(), folder)[1] == []


def test_a_target_that_is_not_there_is_no_further_fault(folder):
    change(folder / "train.csv", "007", "encoding", "")
    competition = Kidney2020()
    samples = competition.inspect(folder, "train")[0]
    with pytest.raises(InputError, match=r"007: train\.csv gave no truth") as caught:
        competition.target(samples[2])
    assert caught.value.faults == []


def test_score_counts_two_empty_masks_as_right_and_rows_are_the_hosts():
    rng = np.random.default_rng(1)
    truth, guess = (rng.random((13, 29)) < 0.4 for _ in range(2))
    empty = np.zeros((13, 29), bool)
    predictions = {key: runs_from_mask(mask) for key, mask in (("a", guess), ("b", empty), ("c", empty))}
    targets = {key: runs_from_mask(mask) for key, mask in (("a", truth), ("b", empty), ("c", truth))}
    score = Kidney2020().score(predictions, targets)
    assert score.by_id == pytest.approx({"a": dice(guess, truth), "b": 1.0, "c": 0.0})
    assert score.mean == pytest.approx(sum(score.by_id.values()) / 3)
    assert Kidney2020().row(predictions["a"]) == encode_rle(guess)
    assert Kidney2020().row(predictions["b"]) == Kidney2020.fallback_row == ""


def test_detection_by_files_and_headers(folder, tmp_path):
    assert detect_competition(folder).name == "kidney_2020"
    assert get_competition("kidney_2020").slug == "hubmap-kidney-segmentation"
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "sample_submission.csv", bare)
    assert detect_competition(bare).name == "kidney_2020", "a hidden test set has no more than this"
    (bare / "sample_submission.csv").write_text("id,rle\n")
    assert detect_competition(bare).name == "hubmap_2022"
    (folder / "train.csv").write_bytes(b"\0" * 200_000)
    assert detect_competition(folder).name == "kidney_2020"
    (folder / "train.csv").write_text("id,organ,rle\n1,kidney,1 1\n")
    assert detect_competition(folder).name == Hubmap2022.name
    (bare / "sample_submission.csv").unlink()
    (bare / "images").mkdir()
    assert detect_competition(bare).name == "folder"
    (bare / "images").rmdir()
    with pytest.raises(InputError, match="kidney_2020 wants"):
        detect_competition(bare)


def test_regions_are_closed_rings_by_name(folder):
    sample = Kidney2020().samples(folder, "train")[0]
    hole = [[5, 2], [9, 2], [9, 6]]
    features = [
        feature("Cortex", [SQUARE, hole]),
        feature("Outer Medulla", [[SQUARE], [hole]], "MultiPolygon"),
        feature("Cortex", [hole]),
    ]
    path = sample.image_path.with_name(f"{sample.id}-anatomical-structure.json")
    closed = [*hole, hole[0]]
    for data in (features, {"type": "FeatureCollection", "features": features}):
        path.write_text(json.dumps(data))
        assert Kidney2020().regions(sample) == {"Cortex": [SQUARE, closed, closed], "Outer Medulla": [SQUARE, closed]}
    path.write_text(json.dumps(features[0]))
    assert Kidney2020().regions(sample) == {"Cortex": [SQUARE, closed]}
    path.unlink()
    assert Kidney2020().regions(sample) == {}
    assert Kidney2020().object_outlines(sample) == {}
    path.with_name(f"{sample.id}.json").write_text(json.dumps([feature("glomerulus", [SQUARE])]))
    assert Kidney2020().object_outlines(sample) == {"glomerulus": [SQUARE]}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (7, "int"),
        ({}, "properties"),
        (feature("", [SQUARE]), "name ''"),
        (feature("Cortex", [[[0, 0], [1, 1]]]), "2 points"),
        (feature("Cortex", [[[0, 0], [1, "1"], [2, 0]]]), "'1' is no coordinate"),
        (feature("Cortex", [[[0, 0], [1, float("nan")], [2, 0]]]), "nan is no coordinate"),
        (feature("Cortex", [0, 0], "Point"), "a Point"),
        (feature("Cortex", []), "no rings"),
        (feature("Cortex", [SQUARE], "MultiPolygon"), "int"),
        (feature("Cortex", None), "NoneType"),
        ({**feature("Cortex", [SQUARE]), "geometry": None}, "NoneType"),
    ],
)
def test_odd_features_are_left_out_with_a_warning(tmp_path, caplog, odd, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([odd, feature("Cortex", [SQUARE])]))
    with caplog.at_level(logging.WARNING, logger="histofold"):
        assert read_outlines(path, "a") == {"Cortex": [SQUARE]}
    assert "1 of 2 features are left out (feature 1" in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize("text", ["", "{", '"text"', "3", '{"features": {}}', "[" * 100_000, "\xff"])
def test_files_that_hold_no_features_are_faults(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"^a: .*a\.json"):
        read_outlines(path, "a")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"resolution": (20_000, 20_000), "resolutionunit": 3}, 0.5),
        ({"resolution": (25_400 / 0.65,) * 2, "resolutionunit": 2}, 0.65),
        ({"resolution": (72, 72), "resolutionunit": 2}, None),
        ({"resolution": (20_000, 10_000), "resolutionunit": 3}, None),
        ({"resolution": (2, 2), "resolutionunit": 1}, None),
        ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}}, 0.5),
        ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "inch"}}, None),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65}}, 0.65),
        ({"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm"}}, None),
    ],
)
def test_the_pixel_size_is_what_the_tiff_states(tmp_path, options, expected):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, np.zeros((*SHAPE, 3), np.uint8), **options)
    assert tiff_pixel_size_um(path) == (expected and pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize("data", [b"", b"II*\0", b"II*\0\x08\0\0\0\xff\xff", b"not a tiff"])
def test_a_broken_file_states_no_pixel_size(tmp_path, data):
    (tmp_path / "a.tiff").write_bytes(data)
    assert tiff_pixel_size_um(tmp_path / "a.tiff") is None
    assert tiff_pixel_size_um(tmp_path / "none.tiff") is None


def test_the_table_goes_before_the_file_and_the_assumption_comes_last(folder, caplog):
    tifffile.imwrite(folder / "train" / "007.tiff", np.zeros((*SHAPE, 3), np.uint8))
    columns, rows = read_csv(folder / KIDNEY_2020_INFORMATION)
    sizes = {"1e2425f28.tiff": "0.65"}
    rows = [[*row, sizes.get(row[0], "")] for row in rows]
    write_csv(folder / KIDNEY_2020_INFORMATION, [*columns, "pixel_size"], rows)
    with caplog.at_level(logging.INFO, logger="histofold"):
        samples = Kidney2020().samples(folder, "train")
    assert [sample.pixel_size_um for sample in samples] == [0.65, 0.5, 0.5, 0.5]
    assert "1 of 4 slides state no pixel size: 0.5 um is assumed" in caplog.text
    assert [s.pixel_size_um for s in Kidney2020(None).samples(folder, "train")] == [0.65, 0.5, None, 0.5]
    change(folder / KIDNEY_2020_INFORMATION, "1e2425f28.tiff", "pixel_size", "-1")
    with pytest.raises(InputError, match="pixel_size '-1'"):
        Kidney2020().samples(folder, "train")


@pytest.mark.slow
def test_check_dataset_and_submission_take_the_folder(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a report of notices would go
    (folder / "sample_submission.csv").write_text("id,predicted\nb9a3865fc,\n404e1,\n")
    assert main(["check", "dataset", str(folder)]) == 0
    assert "no faults" in capsys.readouterr().out
    out = tmp_path / "s.csv"
    out.write_text("id,predicted\nb9a3865fc,1 1230\n404e1,\n")
    assert main(["check", "submission", str(out), "--data", str(folder)]) == 0
    assert main(["check", "submission", str(out), "--competition", "kidney_2020"]) == 0
    out.write_text("id,predicted\n404e1,\nb9a3865fc,1 1231\n")
    capsys.readouterr()
    assert main(["check", "submission", str(out), "--data", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "in its order" in told
    assert "b9a3865fc" in told
    change(folder / "train.csv", "007", "encoding", "")
    assert main(["check", "dataset", str(folder)]) == 2


@pytest.mark.slow
def test_the_chain_takes_the_folder(folder, tmp_path):
    """Tiles, folds by patient, training, score, weights and a submission whose ids are still text."""
    experiment = Experiment(
        data=DataConfig(dataset=str(tmp_path / "dataset")),
        preprocessing=Preprocessing(target_pixel_size_um=0.5),
        tiles=TilesConfig(size=32, stride=32, folds=2),
        augment=AugmentConfig(crop=32),
        model=ModelConfig(**SMALL_UNET),
        train=TrainConfig(steps=2, batch=2, validate_every=2, validate_images=1, save_every=2, workers=1),
        predict=PredictConfig(tile=64, halo=8),
    )
    (tmp_path / "tiny.toml").write_text(to_toml(experiment))
    run, weights, out = tmp_path / "runs" / "tiny", tmp_path / "weights", tmp_path / "s.csv"
    for command in (
        ("build", "--data", folder, "--out", tmp_path / "dataset", "--experiment", tmp_path / "tiny.toml"),
        ("train", tmp_path / "tiny.toml", "--runs", tmp_path / "runs"),
        ("evaluate", run),
        ("package", run, "--out", weights),
        ("predict", "--weights", weights, "--data", folder, "--out", out),
        ("check", "submission", out, "--data", folder),
    ):
        assert main([*map(str, command), *(["--workers", "1"] if command[0] == "build" else [])]) == 0
    columns, rows = read_csv(tmp_path / "dataset" / "folds.csv")
    folds = {row[columns.index("group")]: row[columns.index("fold")] for row in rows}
    assert len({(row[columns.index("group")], row[columns.index("fold")]) for row in rows}) == len(folds) == 3
    assert sorted(row[0] for row in read_csv(run / "oof.csv")[1]) == sorted(IDS)
    header, rows = read_csv(out)
    assert header == ["id", "predicted"]
    assert [row[0] for row in rows] == ["b9a3865fc", "404e1", "hidden"]
    assert rows[2][1] == "", "the slide that is not there"


def test_a_table_that_a_spreadsheet_saved_keeps_its_patients(folder):
    """Semicolons, a column named otherwise, and one patient in two spellings."""
    wanted = Kidney2020().samples(folder, "train")
    columns, rows = read_csv(folder / KIDNEY_2020_INFORMATION)
    change(
        folder / KIDNEY_2020_INFORMATION, rows[0][0], "patient_number", f"{rows[0][columns.index('patient_number')]}.0"
    )
    text = (folder / KIDNEY_2020_INFORMATION).read_text().replace(",", ";").replace("patient_number", "Patient Number")
    (folder / KIDNEY_2020_INFORMATION).write_text(text, encoding="utf-16")
    competition = Kidney2020()
    found = competition.samples(folder, "train")
    assert [s.group.removesuffix(".0") for s in found] == [s.group for s in wanted]
    assert len({s.group for s in found}) == len({s.group for s in wanted}), "no patient is two"
    assert len(competition.notices) == 2
