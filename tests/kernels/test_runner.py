import dataclasses

import numpy as np
import pytest
import tifffile
import torch

from histoseg.competitions.hubmap_2022 import Hubmap2022
from histoseg.kernels import runner
from histoseg.schema.manifest import Manifest, joined_thresholds, load_manifest
from histoseg.schema.preprocessing import Preprocessing
from histoseg.schema.sample import Sample

MANIFEST = Manifest(
    competition="hubmap_2022", preprocessing=Preprocessing(), tile=1024, halo=32, batch=4, thresholds={"default": 0.5}
)


def test_the_memory_ladder_halves_the_batch_then_the_tile_then_takes_the_cpu():
    steps = list(runner._memory_ladder(MANIFEST, torch.device("cuda", 0)))
    assert [(m.batch, m.tile, d.type) for m, d in steps] == [
        *((4, 1024, "cuda"), (2, 1024, "cuda"), (1, 1024, "cuda"), (1, 512, "cuda"), (1, 256, "cuda")),
        (1, 256, "cpu"),
    ]
    whole = dataclasses.replace(MANIFEST, preprocessing=Preprocessing(scale_mode="whole", whole_size=768))
    assert [m.tile for m, _ in runner._memory_ladder(whole, torch.device("cpu"))] == [1024] * 3


@pytest.fixture
def one_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.tiff", np.random.default_rng(0).integers(0, 255, (300, 211, 3), np.uint8))
    return Sample(id="a", image_path=tmp_path / "a.tiff", organ="kidney", pixel_size_um=1.6)


class CpuAllocatorError(RuntimeError):
    """As torch tells it on a CPU: a plain RuntimeError."""

    def __init__(self, text):
        super().__init__(f"DefaultCPUAllocator: can't allocate memory: {text}")


def test_other_errors_are_not_taken_for_memory():
    assert runner.is_out_of_memory(CpuAllocatorError("x"))
    assert not runner.is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, CpuAllocatorError])
def test_out_of_memory_tries_smaller_batches(one_image, small_package, tmp_path, monkeypatch, error):
    tried = []
    original = runner.predict_image

    def hungry(forward, slide, pixel_size_um, manifest, thresholds):
        tried.append(manifest.batch)
        if manifest.batch > 1:
            raise error("too large")
        return original(forward, slide, pixel_size_um, manifest, thresholds)

    monkeypatch.setattr(runner, "predict_image", hungry)
    packages = [(small_package, load_manifest(small_package))]
    summary = runner.run_submission(Hubmap2022(), [one_image], packages, tmp_path / "s.csv")
    assert tried == [3, 1]
    assert (summary.done, summary.failed) == (1, {})


def test_an_image_that_never_fits_keeps_its_fallback_row(one_image, small_package, tmp_path, monkeypatch):
    def starved(*arguments):
        raise MemoryError("never")

    monkeypatch.setattr(runner, "predict_image", starved)
    packages = [(small_package, load_manifest(small_package))]
    summary = runner.run_submission(Hubmap2022(), [one_image], packages, tmp_path / "s.csv")
    assert summary.done == 0
    assert "out of memory" in summary.failed["a"]
    assert (tmp_path / "s.csv").read_text() == "id,rle\na,1 1\n"


def test_thresholds_of_several_packages_are_averaged_key_by_key():
    tables = [{"default": 0.5}, {"default": 0.3, "lung": 0.1}, {"default": 0.4, "lung": 0.3, "lung/HPA": 0.2}]
    expected = {"default": 0.4, "lung": 0.3, "lung/HPA": (0.5 + 0.1 + 0.2) / 3}
    assert joined_thresholds(tables) == pytest.approx(expected)


def test_two_packages_join_as_one_ensemble(one_image, small_package, tmp_path):
    manifest = load_manifest(small_package)
    halves = [(small_package, dataclasses.replace(manifest, members=(member,))) for member in manifest.members]
    for name, packages in (("joined", halves), ("whole", [(small_package, manifest)])):
        runner.run_submission(Hubmap2022(), [one_image], packages, tmp_path / f"{name}.csv")
    assert (tmp_path / "joined.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_killed_run_takes_no_row_of_a_changed_image_over(one_image, small_package, tmp_path, monkeypatch):
    packages = [(small_package, load_manifest(small_package))]
    second = dataclasses.replace(one_image, id="b")
    out = tmp_path / "s.csv"

    def killed(self, sample, megapixels_left):
        if sample.id == "b":
            raise SystemExit(137)
        return "1 5", False

    def run_again():
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(runner._Predictor, "row", killed)
            runner.run_submission(Hubmap2022(), [one_image, second], packages, out)
        return out.read_text()

    assert run_again() == "id,rle\na,1 5\nb,1 1\n"
    assert runner.run_submission(Hubmap2022(), [one_image, second], packages, out).taken_over == 1
    run_again()
    tifffile.imwrite(one_image.image_path, np.zeros((100, 90, 3), np.uint8))
    assert runner.run_submission(Hubmap2022(), [one_image, second], packages, out).taken_over == 0


def test_no_samples_give_a_header_alone(small_package, tmp_path):
    packages = [(small_package, load_manifest(small_package))]
    summary = runner.run_submission(Hubmap2022(), [], packages, tmp_path / "s.csv")
    assert (summary.done, summary.failed) == (0, {})
    assert (tmp_path / "s.csv").read_text() == "id,rle\n"
