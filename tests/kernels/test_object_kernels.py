"""Kernels of objects on fake hidden tests: alone, against the package, on bad files, dense and detector."""

import json
import shutil

import pytest
import tifffile

from histofold.competitions.check import check_submission
from histofold.competitions.vrdl_nuclei import VrdlNuclei
from histofold.core.faults import InputError
from histofold.kaggle.bundle.bundler import LIMIT_BYTES
from histofold.kaggle.bundle.kernels import KERNELS, write_kernel
from histofold.kaggle.wheel import build_wheel
from histofold.kernels.vasculature_2023 import run_vasculature_2023
from histofold.kernels.vrdl_nuclei import run_vrdl_nuclei
from histofold.predict.submission.shards import predict_folder
from kernels.test_hubmap_kernel import read_rows, run_kernel
from object_weights import DENSE, DETECTOR, object_package, vasculature_test, vrdl_test

SHAPES = {"whole": (90, 121), "cut": (200, 64), "missing": None, "empty": (64, 64), "small": (20, 33)}
BROKEN = {"missing", "cut", "empty"}
ANSWERS = {"vasculature_2023": "submission.csv", "vrdl_nuclei": "answer.json"}
RUNS = {"vasculature_2023": run_vasculature_2023, "vrdl_nuclei": run_vrdl_nuclei}


def hidden_test(root, competition):
    """A hidden test set with a truncated, a missing and an empty image; of 2023 all are LZW."""
    write = vasculature_test if competition == "vasculature_2023" else vrdl_test
    write(root, SHAPES)
    suffix = "tif" if competition == "vasculature_2023" else "png"
    cut = root / "test" / f"cut.{suffix}"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (root / "test" / f"empty.{suffix}").write_bytes(b"")
    return root


@pytest.fixture(scope="module", params=[("vasculature_2023", DETECTOR), ("vrdl_nuclei", DENSE)], ids=lambda it: it[0])
def kaggle(request, tmp_path_factory):
    """/kaggle with a hidden test set and weights, two and three folders down; and the competition."""
    competition, network = request.param
    folder = tmp_path_factory.mktemp("kaggle")
    root = hidden_test(folder / "input" / "competitions" / "the-test-set", competition)
    weights = object_package(folder / "input" / "datasets" / "someone" / "weights", competition, network)
    if network is DENSE:
        build_wheel("segmentation-models-pytorch", weights)
    (folder / "working").mkdir()
    return folder, root, weights, competition


def fresh_working(folder):
    shutil.rmtree(folder / "working")
    (folder / "working").mkdir()
    return folder / "working"


@pytest.mark.slow
def test_alone_it_gives_the_bytes_of_the_package(kaggle, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder, root, weights, competition = kaggle
    ours = tmp_path / "ours.csv"
    assert set(predict_folder(weights, root, ours).failed) == BROKEN
    kernel = write_kernel(competition, tmp_path, False, "your-kaggle-name/histofold-weights")
    working = fresh_working(folder)
    process = run_kernel(kernel, folder, OMP_NUM_THREADS="1")
    output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, output
    assert (working / ANSWERS[competition]).read_bytes() == ours.read_bytes()
    assert [path.name for path in working.iterdir()] == [ANSWERS[competition]]
    assert "2 predicted" in output
    check_submission(working / ANSWERS[competition], root, competition)


def test_without_weights_a_legal_file_stands(kaggle, tmp_path):
    _, root, _, competition = kaggle
    inputs = tmp_path / "input"
    shutil.copytree(root, inputs / "test-set")
    with pytest.raises(InputError, match="add the weights' dataset"):
        RUNS[competition](inputs, tmp_path, 3600)
    answer = tmp_path / ANSWERS[competition]
    if competition == "vasculature_2023":
        sizes = {key: (512, 512) if key in BROKEN else shape_hw for key, shape_hw in SHAPES.items()}
        rows = [[key, *map(str, sizes[key]), ""] for key in SHAPES]
        assert read_rows(answer) == [["id", "height", "width", "prediction_string"], *rows]
    else:
        assert json.loads(answer.read_text()) == []
    check_submission(answer, root, competition)


def test_without_a_test_set_it_says_what_to_add(kaggle, tmp_path):
    _, _, _, competition = kaggle
    with pytest.raises(InputError, match="add the"):
        RUNS[competition](tmp_path, tmp_path, 3600)


def test_an_answer_of_nuclei_counts_its_images(tmp_path):
    adapter = VrdlNuclei()
    adapter.samples(vrdl_test(tmp_path / "data", {"a": (9, 9), "b": (8, 8)}), "test")
    assert adapter.count_rows("[]\n") == (2, 0)
    assert adapter.count_rows('[{"image_id": 2}, {"image_id": 2}]') == (2, 1)
    assert adapter.count_rows("id,rle\n") is None


def test_tiles_of_lzw_are_read_without_other_packages(tmp_path):
    root = vasculature_test(tmp_path / "data", {"a": (40, 30)})
    with tifffile.TiffFile(root / "test" / "a.tif") as tiff:
        assert tiff.pages[0].compression == 5


@pytest.mark.parametrize("name", ["vasculature_2023", "vrdl_nuclei"])
def test_committed_kernels_are_fresh_and_small(name, project_root, tmp_path):
    folder = project_root / "kaggle_kernels" / name
    fresh = write_kernel(name, tmp_path, False, "your-kaggle-name/histofold-weights")
    assert (folder / "kernel.py").read_text() == fresh.read_text(), "run `make kernel` and commit"
    assert (folder / "kernel-metadata.json").read_text() == fresh.with_name("kernel-metadata.json").read_text()
    assert fresh.stat().st_size < LIMIT_BYTES // 2
    assert name in KERNELS
