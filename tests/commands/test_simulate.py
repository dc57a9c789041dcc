"""`histofold simulate`: the verdict and its exit status, and the real kernel once."""

import shutil

import pytest

from histofold.commands.main import main
from histofold.kaggle.wheel import build_wheel

FAKE_KERNEL = """
import csv, os
root = os.environ["HISTOFOLD_KAGGLE_ROOT"]
folder = root + "/input/competitions/hubmap-organ-segmentation/"
with open(folder + "sample_submission.csv", newline="", encoding="utf-8-sig") as stream:
    ids = [row[0] for row in csv.reader(stream)][1:]
with open(root + "/working/submission.csv", "w", newline="") as stream:
    csv.writer(stream, lineterminator="\\n").writerows([["id", "rle"], *([key, ROW] for key in ids)])
"""


@pytest.fixture
def simulate(tmp_path, small_package, capsys):
    """Runs the verb with a kernel that writes one row for all; gives status and what it printed."""

    def run(*arguments, row="'2 3'"):
        kernel = tmp_path / "kernel.py"
        kernel.write_text(FAKE_KERNEL.replace("ROW", row))
        places = ["--weights", str(small_package), "--out", str(tmp_path / "out"), "--kernel", str(kernel)]
        small = ["--smallest", "20", "--largest", "60", "--organs", "lung", "spleen"]
        status = main(["simulate", *places, *small, *arguments])
        return status, capsys.readouterr()

    return run


def test_a_good_kernel_passes_and_it_can_be_run_again(simulate, tmp_path):
    for _ in range(2):
        status, printed = simulate("--images", "5", "--faults", "0")
        assert status == 0, printed
        assert "VERDICT: PASS" in printed.out
        assert "5 images: 0 that nobody can read" in printed.out
        assert (tmp_path / "out" / "kernel.log").is_file()


def test_rows_lost_without_a_reason_fail(simulate):
    status, printed = simulate("--images", "4", "--faults", "0", row="'1 1'")
    assert status == 2
    assert "VERDICT: FAIL" in printed.out
    assert "4 images that can be read have fallback rows" in printed.out


def test_illegal_rows_fail(simulate):
    status, printed = simulate("--images", "3", "--faults", "0", row="'5 5 1 1'")
    assert status == 2
    assert printed.out.count("malformed rle") == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--faults", "2"), "a share from 0 to 1"),
        (("--kernel", "nowhere.py"), "no such script"),
        (("--organs", "liver"), "no organ of hubmap_2022"),
        (("--competition", "folder"), "no hidden set"),
        (("--weights", "nowhere"), "nowhere"),
    ],
)
def test_faults_of_the_command_line_are_told_in_words(simulate, arguments, words):
    status, printed = simulate(*arguments)
    assert status == 2
    assert words in printed.err


def test_a_folder_of_another_kind_is_left_alone(simulate, tmp_path):
    precious = tmp_path / "out" / "kaggle" / "precious"
    precious.mkdir(parents=True)
    status, printed = simulate("--images", "1")
    assert status == 2
    assert "no earlier simulation" in printed.err
    assert precious.is_dir()


@pytest.mark.slow
def test_the_packaged_kernel_passes_with_faults(tmp_path, small_package, capsys):
    weights = tmp_path / "weights"
    shutil.copytree(small_package, weights)
    build_wheel("segmentation-models-pytorch", weights)
    arguments = ["--weights", str(weights), "--out", str(tmp_path / "out"), "--limit-s", "3600"]
    small = ["--images", "12", "--smallest", "20", "--largest", "200", "--faults", "0.6", "--seed", "3"]
    status = main(["simulate", *arguments, *small])
    printed = capsys.readouterr().out
    assert status == 0, printed + (tmp_path / "out" / "kernel.log").read_text()
    assert "VERDICT: PASS" in printed
    assert "networks loaded, images predicted" in printed
