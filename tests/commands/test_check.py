"""`histoseg check`: every fault at once, through the command line."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from histoseg.commands.main import main
from histoseg.core.rle import encode_rle

COLUMNS = ["id", "organ", "data_source", "img_height", "img_width", "pixel_size", "tissue_thickness", "rle"]
GOOD = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]


def write_csv(path, columns, rows):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


@pytest.fixture
def rows():
    mask = np.zeros((20, 31), bool)
    mask[0, 0] = mask[-1, -1] = True
    return {key: [key, "lung", "HPA", "20", "31", "0.4", "", encode_rle(mask)] for key in GOOD}


@pytest.fixture
def folder(tmp_path, rows):
    """Ten good training images and two good test images."""
    pixels = np.random.default_rng(0).integers(0, 255, (20, 31, 3), np.uint8)
    for place, keys in (("train_images", GOOD), ("test_images", ["t1", "t2"])):
        (tmp_path / place).mkdir()
        for key in keys:
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


def test_a_clean_folder_passes(folder, capsys):
    assert main(["check", "dataset", str(folder)]) == 0
    assert "no faults" in capsys.readouterr().out


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
    data = bytearray((folder / "train_images" / "9.tiff").read_bytes())
    with tifffile.TiffFile(folder / "train_images" / "9.tiff") as tiff:
        start, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    data[start : start + count] = b"\xff" * count
    (folder / "train_images" / "9.tiff").write_bytes(data)
    bomb(folder / "train_images" / "10.tiff")
    (folder / "test_images" / "t1.tiff").unlink()
    (folder / "test_images" / "t2.tiff").write_bytes(b"II*\0")
    assert main(["check", "dataset", str(folder)]) == 2
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
        "t2": "header",
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
from histoseg.commands.main import main
codes = [main(["check", "dataset", path]) for path in ({str(folder)!r}, {str(other)!r})]
# Not getrusage: its peak is inherited from the process that started this one.
status = pathlib.Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
print(*codes, "torch" in sys.modules, *peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *codes_and_torch, peak_kib = [*done.stdout.split()[:3], *(done.stdout.split()[3:] or ["0"])]
    assert codes_and_torch == ["2", "2", "False"]
    assert int(peak_kib) * 1024 < 400_000_000
    assert done.stderr.count("100000 x 100000") == 2
    assert "mask is (100000, 100000)" in done.stderr
