"""`histofold check`: every fault at once, through the command line."""

import csv
import gzip
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile

from histofold.commands.main import main
from histofold.competitions.registry import get_competition
from histofold.core.rle.runs import encode_rle
from histofold.data.check import audit_folder

COLUMNS = ["id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness", "rle"]
GOOD = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]


def write_csv(path, columns, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


@pytest.fixture
def rows():
    made = {}
    for key in GOOD:
        mask = np.zeros((20, 31), bool)
        mask[0, 0] = mask[-1, -1] = mask[7, int(key)] = True
        made[key] = [key, "lung", "HPA", "20", "31", "0.4", "", encode_rle(mask)]
    return made


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory, monkeypatch):
    """Reports that nobody named a place for go here, not into the project."""
    path = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def folder(tmp_path, rows):
    """Ten good training images and two good test images."""
    rng = np.random.default_rng(0)
    for place, keys in (("train_images", GOOD), ("test_images", ["t1", "t2"])):
        (tmp_path / place).mkdir()
        for key in keys:
            pixels = rng.integers(0, 255, (20, 31, 3), np.uint8)
            tifffile.imwrite(tmp_path / place / f"{key}.tiff", pixels, compression="lzw")
    write_csv(tmp_path / "train.csv", COLUMNS, rows.values())
    write_csv(tmp_path / "test.csv", COLUMNS[:-1], [["t1", "lung", "HPA", "1", "1", "0.4", ""]])
    write_csv(tmp_path / "sample_submission.csv", ["id", "rle"], [["t1", ""], ["t2", ""]])
    return tmp_path


def bomb(path):
    """A header of 100000 x 100000 pixels over a tiny LZW strip."""
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8), compression="lzw")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageLength", "ImageWidth", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(100_000)


def test_a_clean_folder_passes_and_nothing_is_written(folder, elsewhere, capsys):
    before = sorted(folder.rglob("*"))
    assert main(["check", "dataset", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: no faults\n"
    assert sorted(folder.rglob("*")) == before
    assert list(elsewhere.iterdir()) == []


def change(rows, key, **cells):
    for column, cell in cells.items():
        rows[key][COLUMNS.index(column)] = cell


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def header_only(path):
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages[0].dataoffsets[0]
    path.write_bytes(path.read_bytes()[:first])


ROW_FAULTS = {
    "malformed rle": {"rle": "1 2 3"},
    "rle of letters": {"rle": "1 x"},
    "unsorted rle": {"rle": "9 1 3 1"},
    "overlapping rle": {"rle": "1 5 3 2"},
    "rle out of range": {"rle": "600 50"},
    "rle from 0": {"rle": "0 3"},
    "rle of length 0": {"rle": "5 0"},
    "negative rle": {"rle": "5 -1"},
    "NaN rle": {"rle": "nan"},
    "no rle": {"rle": ""},
    "wrong size": {"img_height": "31", "img_width": "20"},
    "size is no number": {"img_width": "wide"},
    "size 0": {"img_height": "0"},
    "pixel size 0": {"pixel_size": "0"},
    "negative pixel size": {"pixel_size": "-0.4"},
    "NaN pixel size": {"pixel_size": "nan"},
    "infinite pixel size": {"pixel_size": "inf"},
    "no pixel size": {"pixel_size": ""},
    "other organ": {"organ": "liver"},
    "no organ": {"organ": ""},
}
FILE_FAULTS = {
    "missing image": lambda path: path.unlink(),
    "empty image": lambda path: path.write_bytes(b""),
    "truncated image": lambda path: cut(path, 0.7),
    "header-only image": header_only,
    "not an image": lambda path: path.write_bytes(b"<html>not found</html>"),
    "undecodable image": lambda path: undecodable(path),
    "over-limit image": lambda path: bomb(path),
}


def undecodable(path):
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    data[start : start + count] = b"\xff" * count
    path.write_bytes(data)


@pytest.mark.parametrize("kind", [*ROW_FAULTS, *FILE_FAULTS, "duplicate id"])
def test_each_fault_alone_is_named_with_id_file_rule_and_remedy(folder, rows, kind, capsys):
    """Only that one image is named: a fault never hides nor taints another image."""
    if kind in ROW_FAULTS:
        change(rows, "4", **ROW_FAULTS[kind])
    elif kind in FILE_FAULTS:
        FILE_FAULTS[kind](folder / "train_images" / "4.tiff")
    write_csv(folder / "train.csv", COLUMNS, [*rows.values(), *([rows["4"]] if kind == "duplicate id" else [])])
    assert main(["check", "dataset", str(folder)]) == 2
    captured = capsys.readouterr()
    said = [line for line in captured.err.splitlines() if str(folder) in line]
    assert len(said) == 1
    assert said[0].startswith("4: ")
    assert "; " in said[0], "a remedy"
    assert "1 fault in the input" in captured.err


@pytest.mark.parametrize("column", ["organ", "img_height", "img_width", "pixel_size", "rle", "data_source"])
def test_a_missing_column_is_named_once(folder, rows, column, capsys):
    place = COLUMNS.index(column)
    short = [row[:place] + row[place + 1 :] for row in rows.values()]
    write_csv(folder / "train.csv", COLUMNS[:place] + COLUMNS[place + 1 :], short)
    assert main(["check", "dataset", str(folder), "--competition", "hubmap_2022"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if str(folder) in line]
    assert [line.split(": ")[0] for line in said] == [column]


def test_what_is_no_fault(folder, rows, capsys):
    """Extra columns, an unknown source, no thickness, no annotations, one id in both splits."""
    pixels = np.random.default_rng(9).integers(0, 255, (20, 31, 3), np.uint8)
    tifffile.imwrite(folder / "test_images" / "1.tiff", pixels)
    change(rows, "2", data_source="Elsewhere")
    place = COLUMNS.index("tissue_thickness")
    write_csv(folder / "train.csv", [*COLUMNS, "mood"], [[*row, "fine"] for row in rows.values()])
    write_csv(folder / "sample_submission.csv", ["id", "rle"], [["t1", ""], ["1", ""]])
    assert main(["check", "dataset", str(folder)]) == 0
    short = [row[:place] + row[place + 1 :] for row in rows.values()]
    write_csv(folder / "train.csv", COLUMNS[:place] + COLUMNS[place + 1 :], short)
    assert main(["check", "dataset", str(folder)]) == 0
    assert "fault" not in capsys.readouterr().err


def test_notices_are_only_counted_and_go_to_the_report(folder, elsewhere, capsys, monkeypatch):
    """Two like images and misread labels: exit 0, a count, and a report that is never put among the data."""
    noise = np.kron(np.random.default_rng(5).integers(0, 255, (20, 31, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    mask = np.zeros((80, 124), bool)
    mask[10:60, 30:70] = True
    rows = [[key, "lung", "HPA", "80", "124", "0.4", "", encode_rle(mask, order="C")] for key in ("1", "2")]
    for key in ("1", "2"):
        tifffile.imwrite(folder / "train_images" / f"{key}.tiff", noise)
    write_csv(folder / "train.csv", COLUMNS, rows)
    assert main(["check", "dataset", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "notices: 4; report: dataset_report.html" in said
    assert "near-dup" not in said
    page = (elsewhere / "dataset_report.html").read_text()
    assert "the same tissue twice" in page
    assert "run lengths are read row by row" in page
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    assert main(["check", "dataset", "."]) == 0
    assert "--report PATH" in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before
    assert main(["check", "dataset", ".", "--report", str(elsewhere / "r.html")]) == 0
    assert (elsewhere / "r.html").is_file()


def test_labels_alone_are_checked_and_shown(folder, rows, elsewhere, capsys):
    folds = folder / "folds.csv"
    write_csv(folds, ["id", "group", "stratum", "fold"], [[key, key, "lung-low", str(int(key) % 2)] for key in GOOD])
    table = folder / "rows.csv.gz"
    table.write_bytes(gzip.compress((folder / "train.csv").read_bytes()))
    assert main(["check", "dataset", str(table), "--report", "r.html", "--folds", str(folds)]) == 0
    page = (elsewhere / "r.html").read_text()
    assert "No leak between folds" not in page, "who the patients are is not known"
    assert f"None of the {len(GOOD)} groups stands in two folds; but no patient is known" in page
    change(rows, "3", rle="5 1 3 1")
    write_csv(folder / "other.csv", COLUMNS, rows.values())
    write_csv(folds, ["id", "group", "stratum", "fold"], [[key, "all", "lung-low", str(int(key) % 2)] for key in GOOD])
    assert main(["check", "dataset", str(folder / "other.csv"), "--folds", str(folds)]) == 2
    said = capsys.readouterr().err
    assert f"3: {folder / 'other.csv'}: malformed rle" in said
    assert "leaks" in said
    table.write_bytes(table.read_bytes()[:-9])
    assert main(["check", "dataset", str(table)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_table_of_labels_is_named_as_the_user_gave_it(tmp_path, capsys):
    """Labels of another competition, and a table that is none: no word of the folder that was made for them."""
    kidney, odd = tmp_path / "kidney.csv", tmp_path / "odd.csv"
    write_csv(kidney, ["id", "encoding"], [["a", "5 1 3 1"], ["b", "1 2"]])
    assert main(["check", "dataset", str(kidney)]) == 2
    said = capsys.readouterr().err
    assert f"a: {kidney}: malformed encoding" in said
    assert "1 fault in" in said
    write_csv(odd, ["name", "rle"], [["a", "1 2"]])
    assert main(["check", "dataset", str(odd)]) == 2
    assert f"odd: {odd}: no known competition" in capsys.readouterr().err


def test_faults_of_many_kinds_are_named_at_once(folder, rows, capsys):
    places = {name: place for place, name in enumerate(COLUMNS)}
    for key, column, value in (
        ("1", "organ", "heart"),
        ("2", "pixel_size", "0"),
        ("3", "rle", ""),
        ("4", "rle", "5 1 3 1"),
        ("5", "rle", "1 99999"),
        ("6", "img_height", "21"),
        ("7", "img_width", "nan"),
    ):
        rows[key][places[column]] = value
    write_csv(folder / "train.csv", COLUMNS, [*rows.values(), rows["10"], [*rows["10"][:-1], "1 1", "surplus"]])
    (folder / "train_images" / "8.tiff").unlink()
    undecodable(folder / "train_images" / "9.tiff")
    bomb(folder / "train_images" / "10.tiff")
    (folder / "test_images" / "t1.tiff").unlink()
    (folder / "test_images" / "t2.tiff").write_bytes(b"II*\0")
    assert main(["check", "dataset", str(folder), "--report", "r.html"]) == 2
    said = capsys.readouterr().err.splitlines()
    for key, words in {
        "1": "organ 'heart'",
        "2": "pixel_size '0'",
        "3": "no rle",
        "4": "malformed rle",
        "5": "malformed rle",
        "6": "its table says",
        "7": "not positive numbers",
        "8": "no such file",
        "9": "cannot be decoded",
        "10": "pixels are more than",
        "t1": "no such file",
        "t2": "truncated",
    }.items():
        assert any(line.startswith(f"{key}: ") and words in line for line in said), (key, words, said)
    assert any(line.startswith("10: ") and "duplicate id" in line for line in said)
    assert any(line.startswith("10: ") and "line 13 has 9 fields" in line for line in said)


def test_a_missing_column_hides_no_image(folder, rows, capsys):
    write_csv(folder / "train.csv", COLUMNS[:1] + COLUMNS[2:], [row[:1] + row[2:] for row in rows.values()])
    (folder / "train_images" / "8.tiff").unlink()
    assert main(["check", "dataset", str(folder), "--competition", "hubmap_2022"]) == 2
    said = capsys.readouterr().err
    assert "organ: " in said
    assert "8: " in said


def test_a_submission_s_faults_are_named_at_once(folder, capsys):
    path = folder / "submission.csv"
    write_csv(path, ["id", "rle"], [["t1", "1 1"], ["t1", "1 1"], ["t2", "5 1 3 1"]])
    assert main(["check", "submission", str(path), "--data", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "duplicate id" in said
    assert "malformed rle" in said
    assert "2 faults" in said
    write_csv(path, ["id", "rle"], [["t1", "1 1"], ["t2", "1 620"]])
    assert main(["check", "submission", str(path), "--data", str(folder)]) == 0


def test_a_submission_s_columns_tell_its_competition(tmp_path):
    path = tmp_path / "submission.csv"
    write_csv(path, ["id", "predicted"], [["a", "1 5"], ["b", ""]])
    assert main(["check", "submission", str(path)]) == 0
    write_csv(path, ["id", "rle"], [["a", "1 5"], ["b", ""]])
    assert main(["check", "submission", str(path)]) == 2, "hubmap_2022 wants no row empty"


def test_weights_of_an_unknown_competition_are_refused(small_package, tmp_path, capsys):
    for path in small_package.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert main(["check", "weights", str(tmp_path)]) == 0
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"hubmap_2022"', '"elsewhere"'))
    assert main(["check", "weights", str(tmp_path)]) == 2
    assert "unknown competition" in capsys.readouterr().err


def test_without_torch_and_within_memory(folder):
    bomb(folder / "train_images" / "10.tiff")
    other = folder / "own"
    (other / "images").mkdir(parents=True)
    (other / "masks").mkdir()
    tifffile.imwrite(other / "images" / "a.tif", np.zeros((20, 31, 3), np.uint8))
    bomb(other / "masks" / "a.tif")
    bomb(other / "images" / "b.tif")
    bomb(other / "masks" / "b.tif")
    code = f"""
import pathlib, sys
from histofold.commands.main import main
report = {str(folder / "report.html")!r}
codes = [main(["check", "dataset", path, "--report", report]) for path in ({str(folder)!r}, {str(other)!r})]
# Not getrusage: its peak is inherited from the process that started this one.
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
print(*codes, "torch" in sys.modules, *peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[-1].split()
    *codes_and_torch, peak_kib = [*words[:3], *(words[3:] or ["0"])]
    assert codes_and_torch == ["2", "2", "False"]
    assert int(peak_kib) * 1024 < 400_000_000
    assert done.stderr.count("100000 x 100000") == 2
    assert "mask is (100000, 100000)" in done.stderr


def test_a_large_picture_in_one_piece_is_checked_by_its_header(tmp_path, caplog):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    blank = np.zeros((5900, 5800), np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "large.jpg"), cv2.merge([blank] * 3))
    cv2.imwrite(str(tmp_path / "masks" / "large.png"), blank)
    samples, faults = audit_folder(get_competition("folder"), tmp_path, decode=True)
    assert len(samples) == 1
    assert faults == []
    assert "only its header was checked" in caplog.text
