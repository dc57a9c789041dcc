import dataclasses
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.core.rle.runs import parse_rle
from histofold.predict.devices import is_out_of_memory
from histofold.predict.submission import predictor, rows, runner
from histofold.schema.manifest import joined_thresholds, load_manifest
from histofold.schema.sample import Sample
from slow_network import skipping_clock

pytestmark = pytest.mark.slow


@pytest.fixture
def one_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.tiff", np.random.default_rng(0).integers(0, 255, (300, 211, 3), np.uint8))
    return Sample(id="a", image_path=tmp_path / "a.tiff", organ="kidney", pixel_size_um=1.6)


class CpuAllocatorError(RuntimeError):
    """As torch tells it on a CPU: a plain RuntimeError."""

    def __init__(self, text):
        super().__init__(f"DefaultCPUAllocator: can't allocate memory: {text}")


def test_other_errors_are_not_taken_for_memory():
    assert is_out_of_memory(CpuAllocatorError("x"))
    assert is_out_of_memory(RuntimeError("could not create a primitive")), "oneDNN's words for it"
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, CpuAllocatorError])
def test_out_of_memory_tries_smaller_batches(one_image, small_package, tmp_path, monkeypatch, error):
    tried = []
    original = rows.predict_image

    def hungry(stages, *others):
        batch = stages[0].manifest.batch
        tried.append(batch)
        if batch > 1:
            raise error("too large")
        return original(stages, *others)

    monkeypatch.setattr(rows, "predict_image", hungry)
    packages = [(small_package, load_manifest(small_package))]
    second = dataclasses.replace(one_image, id="b")
    summary = runner.run_submission(Hubmap2022(), [one_image, second], packages, tmp_path / "s.csv")
    assert tried == [3, 1, 1], "what sufficed is kept for the images that follow"
    assert (summary.done, summary.failed) == (2, {})
    assert summary.steps == ("a: out of memory, tried again: batches 2 times smaller",)


@pytest.mark.slow
def test_an_image_that_never_fits_keeps_its_fallback_row(one_image, small_package, tmp_path, monkeypatch):
    def starved(*arguments):
        raise MemoryError("never")

    monkeypatch.setattr(rows, "predict_image", starved)
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

    def killed(self, sample, own, later):
        if sample.id == "b":
            raise SystemExit(137)
        return predictor.PredictedRow("1 5", (300, 211), 5, "4 of 4")

    def run_again():
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(predictor.SubmissionPredictor, "row", killed)
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


def test_members_of_two_scales_join_and_their_average_is_of_both(one_image, small_package, tmp_path):
    manifest = load_manifest(small_package)
    coarse = dataclasses.replace(manifest.preprocessing, target_pixel_size_um=3.2)
    first, second = manifest.members
    mixed = dataclasses.replace(manifest, members=(first, dataclasses.replace(second, preprocessing=coarse)))
    apart = [
        (small_package, dataclasses.replace(manifest, members=(first,))),
        (small_package, dataclasses.replace(manifest, members=(second,), preprocessing=coarse)),
    ]
    texts = set()
    for name, packages in (("one", [(small_package, mixed)]), ("two", apart), ("plain", [(small_package, manifest)])):
        summary = runner.run_submission(Hubmap2022(), [one_image], packages, tmp_path / f"{name}.csv")
        assert summary.images[0].outcome == "predicted"
        assert summary.images[0].passes == "4 of 4"
        texts.add((tmp_path / f"{name}.csv").read_text())
    assert len(texts) == 2, "two packages or one give the same; another scale gives something else"


def test_every_image_has_its_record(one_image, small_package, tmp_path):
    (tmp_path / "broken.tiff").write_bytes(b"no image")
    broken = dataclasses.replace(one_image, id="b", image_path=tmp_path / "broken.tiff")
    packages = [(small_package, load_manifest(small_package))]
    summary = runner.run_submission(Hubmap2022(), [broken, one_image], packages, tmp_path / "s.csv")
    bad, good = summary.images
    assert (bad.id, bad.outcome, bad.shape_hw) == ("b", "fallback", None)
    assert bad.reason == summary.failed["b"]
    assert (good.id, good.outcome, good.shape_hw) == ("a", "predicted", (300, 211))
    assert good.area_px > 0
    assert "CPU" in summary.device


class Slow(torch.nn.Module):
    """A network that takes its time for each tile."""

    def __init__(self, seconds, nap):
        super().__init__()
        self.seconds, self.nap = seconds, nap
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images_NCHW):
        self.nap(self.seconds * len(images_NCHW))
        return images_NCHW[:, :1] + self.bias


@pytest.fixture
def slow_members(monkeypatch):
    """Members that take 4 s a tile and differ, whatever their files hold; the clock skips that time."""
    made = []

    def load(self, device, into=None):
        made.append(Slow(0.0, nap))
        made[-1].bias.data += len(made)
        made[-1].seconds = 4.0
        return made[-1]

    monkeypatch.setattr("histofold.predict.members.MemberFile.load", load)
    with skipping_clock() as nap:
        yield made


def test_short_time_drops_views_and_members_and_still_gives_every_row(one_image, small_package, tmp_path, slow_members):
    images = [dataclasses.replace(one_image, id=f"i{number}") for number in range(12)]
    manifest = load_manifest(small_package)
    packages = [(small_package, manifest)]
    # 12 images of 6 tiles, 4 passes of 4 s: 1150 s of work; 1000 s less 300 in reserve.
    summary = runner.run_submission(Hubmap2022(), images, packages, tmp_path / "s.csv", limit_s=1000.0)
    assert summary.seconds < 1000.0
    outcomes = [record.outcome for record in summary.images]
    assert "degraded" in outcomes
    assert any("of 2 views" in words for words in summary.steps)
    rows = (tmp_path / "s.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["id", *(f"i{number}" for number in range(12))]
    assert all(row.split(",")[1] for row in rows[1:])


def test_one_image_that_takes_longer_than_all_the_time_gives_the_rows_that_were_seen(
    small_package, tmp_path, slow_members
):
    image_HWC = np.full((6000, 400, 3), 200, np.uint8)
    tifffile.imwrite(tmp_path / "g.tiff", image_HWC)
    giant = Sample(id="g", image_path=tmp_path / "g.tiff", organ="kidney", pixel_size_um=1.6)
    packages = [(small_package, load_manifest(small_package))]
    summary = runner.run_submission(Hubmap2022(), [giant], packages, tmp_path / "s.csv", limit_s=1000.0)
    assert summary.seconds < 1000.0
    (record,) = summary.images
    assert record.outcome == "degraded"
    assert "of 6000 rows" in record.reason
    runs = parse_rle((tmp_path / "s.csv").read_text().splitlines()[1].split(",")[1], (6000, 400))
    assert 0 < runs.area < 6000 * 400


HANGS = {
    "in the main thread": "while True:\n            time.sleep(0.05)",
    "in a reader": "predict_image([Stage((Red(),), MANIFEST, ())], HangingSlide(), 1.0, [0.5])",
    "deaf to interrupts": "signal.signal(signal.SIGINT, signal.SIG_IGN)\n        time.sleep(90)",
}
HANGING_RUN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a process that a shell has put into the background
from pathlib import Path
import numpy as np
import torch
from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.predict.submission import runner, watchdog
from histofold.predict.image import predict_image
from histofold.predict.stages import Stage
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sample import Sample

MANIFEST = Manifest(competition="hubmap_2022", preprocessing=Preprocessing(target_pixel_size_um=1.0))

class Red:
    device = torch.device("cpu")

    def __call__(self, images_NHWC, passes, manifest):
        return np.zeros((len(images_NHWC), 1, *images_NHWC.shape[1:3]), np.float32)

class HangingSlide:
    shape_hw, organ = (900, 900), ""

    def read(self, y, x, channels):
        time.sleep(90)

class Hanging:
    steps, device = [], ""

    def __init__(self, *_, **__):
        pass

    def megapixels(self, sample):
        return (1.0,)

    def row(self, *_):
        {hang}

    def forecast(self):
        return ""

runner.SubmissionPredictor = Hanging
watchdog._LEAST_MERCY_S = {mercy_s}
samples = [Sample(id=key, image_path=Path(key), pixel_size_um=1.0) for key in ("a", "b")]
summary = runner.run_submission(Hubmap2022(), samples, [(Path("."), MANIFEST)], Path({out!r}), limit_s=3.0)
print(summary.failed)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hang", HANGS)
def test_a_hang_costs_no_row_and_ends_before_the_limit_is_long_past(tmp_path, hang):
    out = tmp_path / "s.csv"
    script = tmp_path / "hang.py"
    mercy_s = 1.0 if hang == "deaf to interrupts" else 30.0  # those that can be interrupted have all the time
    script.write_text(HANGING_RUN.format(hang=HANGS[hang], out=str(out), mercy_s=mercy_s))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=85)
    if hang == "deaf to interrupts":
        assert (done.returncode, done.stdout) == (1, ""), "ended from outside, and not as if it had gone well"
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == "{'a': 'it hung', 'b': 'the clock ran out'}"
    assert out.read_text() == "id,rle\na,1 1\nb,1 1\n"


@pytest.mark.slow
def test_members_come_in_turn_where_batches_of_one_are_too_much(one_image, small_package, tmp_path, monkeypatch):
    original = rows.predict_image

    def hungry(stages, *others):
        if not stages[0].networks[0].in_turn:
            raise MemoryError("too many networks")
        return original(stages, *others)

    packages = [(small_package, load_manifest(small_package))]
    plain = tmp_path / "plain.csv"
    runner.run_submission(Hubmap2022(), [one_image], packages, plain)
    monkeypatch.setattr(rows, "predict_image", hungry)
    second = dataclasses.replace(one_image, id="b")
    summary = runner.run_submission(Hubmap2022(), [one_image, second], packages, tmp_path / "s.csv")
    assert [record.outcome for record in summary.images] == ["predicted", "predicted"]
    assert summary.steps == (
        "a: out of memory, tried again: batches 2 times smaller",
        "a: out of memory, tried again: batches 2 times smaller, one member at a time",
    )
    first, again = (row.split(",")[1] for row in (tmp_path / "s.csv").read_text().splitlines()[1:])
    assert first == again
    whole, turned = (
        parse_rle(text, (300, 211)).to_mask() for text in (plain.read_text().split(",")[-1].strip(), first)
    )
    assert (whole != turned).mean() < 1e-3


@pytest.mark.slow
def test_one_image_that_no_rung_helps_does_not_slow_the_others(one_image, small_package, tmp_path, monkeypatch):
    original = rows.predict_image
    kinds = []

    def starved(stages, slide, *others):
        if slide.path.name == "b.tiff":
            raise MemoryError("a header that claims too much")
        kinds.append(stages[0].networks[0].in_turn)
        return original(stages, slide, *others)

    tifffile.imwrite(tmp_path / "b.tiff", np.zeros((50, 60, 3), np.uint8))
    broken = dataclasses.replace(one_image, id="b", image_path=tmp_path / "b.tiff")
    monkeypatch.setattr(rows, "predict_image", starved)
    packages = [(small_package, load_manifest(small_package))]
    summary = runner.run_submission(Hubmap2022(), [broken, one_image], packages, tmp_path / "s.csv")
    assert [record.outcome for record in summary.images] == ["fallback", "predicted"]
    assert kinds == [False], "the members are in memory again"
