"""Whatever goes wrong once a legal file stands, it stays legal, the log says what happened, and the status fits."""

import csv
import logging
import os
import shutil
from pathlib import Path

import pytest

from histofold.competitions.hubmap_2022 import Hubmap2022
from histofold.kernels import entry
from histofold.kernels.configuration import KERNEL_INPUTS, KERNEL_LIMIT_S, KERNEL_WORKING
from histofold.kernels.hubmap_2022 import run_hubmap_2022
from histofold.predict.submission.journal import SubmissionJournal
from histofold.predict.submission.runner import RunSummary
from small_kaggle import make_kaggle

IDS = ["10", "007", "7"]


@pytest.fixture
def kaggle(tmp_path, small_package, monkeypatch):
    """/kaggle with three hidden images and the weights; the kernel looks there."""
    monkeypatch.setenv("HISTOFOLD_KAGGLE_ROOT", str(tmp_path))
    return make_kaggle(tmp_path, small_package, IDS)


def rows_of(kaggle):
    with (kaggle / "working" / "submission.csv").open(newline="") as stream:
        return list(csv.reader(stream))


FALLBACK = [["id", "rle"], *([key, "1 1"] for key in IDS)]


def start(run=run_hubmap_2022):
    return entry.start_kernel(Hubmap2022(), run)


def test_the_configuration_is_kaggles_and_a_rehearsal_goes_before_it(monkeypatch, tmp_path):
    for name in ("HISTOFOLD_KAGGLE_ROOT", "HISTOFOLD_LIMIT_S"):
        monkeypatch.delenv(name, raising=False)
    assert entry.kernel_places() == (Path(KERNEL_INPUTS), Path(KERNEL_WORKING), KERNEL_LIMIT_S)
    monkeypatch.setenv("HISTOFOLD_KAGGLE_ROOT", str(tmp_path))
    monkeypatch.setenv("HISTOFOLD_LIMIT_S", "60")
    assert entry.kernel_places() == (tmp_path / "input", tmp_path / "working", 60.0)


def test_missing_and_changed_weights_end_with_an_error_after_the_legal_file(kaggle, caplog):
    weights = next((kaggle / "input" / "weights").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0\1")
    for words in ("SHA-256", "add the weights' dataset"):
        with pytest.raises(SystemExit) as stop:
            start()
        assert stop.value.code == 2
        assert rows_of(kaggle) == FALLBACK
        assert words in caplog.text
        assert "3 rows, 0 of them predicted" in caplog.text
        shutil.rmtree(kaggle / "input" / "weights", ignore_errors=True)


def test_no_competition_ends_with_an_error_and_no_file(kaggle, caplog):
    shutil.rmtree(kaggle / "input" / "competitions")
    with pytest.raises(SystemExit) as stop:
        start()
    assert stop.value.code == 2
    assert "add the competition" in caplog.text
    assert not (kaggle / "working" / "submission.csv").exists()


def failing_midway(rows_before):
    """A kernel that breaks after some rows, as no image may break it."""

    def run(inputs, working, limit_s):
        fallbacks = dict(FALLBACK[1:])
        with SubmissionJournal(working / "submission.csv", Hubmap2022().submission_text, fallbacks, "k") as journal:
            for key in IDS[:rows_before]:
                journal.add(key, "5 6")
            raise RuntimeError("the driver is gone")

    return run


@pytest.mark.parametrize("rows_before", [0, 1])
def test_a_kernel_that_breaks_midway_leaves_what_there_is(rows_before, kaggle, caplog):
    if rows_before:
        assert start(failing_midway(rows_before)) is None, "the rows that were made are scored"
        assert "ends without an error nevertheless" in caplog.text
    else:
        with pytest.raises(SystemExit) as stop:
            start(failing_midway(rows_before))
        assert stop.value.code == 1
    assert rows_of(kaggle) == [FALLBACK[0], *([key, "5 6"] for key in IDS[:rows_before]), *FALLBACK[1 + rows_before :]]
    assert "RuntimeError: the driver is gone" in caplog.text
    assert f"3 rows, {rows_before} of them predicted" in caplog.text


def test_a_fault_on_the_visible_images_is_seen(kaggle, monkeypatch):
    monkeypatch.setattr(Hubmap2022, "visible_test_images", 3)
    with pytest.raises(SystemExit) as stop:
        start(failing_midway(2))
    assert stop.value.code == 1


def test_a_stop_from_outside_is_passed_on(kaggle):
    for error in (SystemExit(143), KeyboardInterrupt()):

        def stopped(*_, error=error):
            raise error

        with pytest.raises(type(error)):
            start(stopped)


def summary_stub(seen):
    def run_submission(competition, samples, packages, out, limit_s, hang_status, make_rows):
        assert hang_status == 0
        seen.append((samples, len(packages), limit_s))
        return RunSummary(len(samples), {}, 0, 1.0)

    return run_submission


def test_the_legal_file_stands_before_tables_and_weights_and_bad_tables_cost_no_row(kaggle, monkeypatch, caplog):
    seen = []

    def broken(self, root, split):
        assert rows_of(kaggle) == FALLBACK
        raise ValueError("a table that nobody has seen")

    monkeypatch.setattr(Hubmap2022, "test_samples", broken)
    monkeypatch.setattr(entry, "run_submission", summary_stub(seen))
    assert start().done == 3
    ((samples, packages, limit_s),) = seen
    assert [sample.id for sample in samples] == IDS
    assert all(sample.image_path.is_file() for sample in samples)
    assert packages == 1
    assert 0 < limit_s <= KERNEL_LIMIT_S
    assert "predicted without them" in caplog.text


def test_the_summary_never_costs_the_submission(caplog):
    with caplog.at_level(logging.INFO, "histofold"):
        entry.show_summary(RunSummary(0, {}, 0, 1.0))
        entry.show_summary(None)
        entry.show_summary("no summary at all")
    assert "summary: 0 images in 1 s" in caplog.text
    assert "the kernel failed midway" in caplog.text
    assert "AttributeError" in caplog.text


def test_the_whole_entry_predicts_and_shows_its_table(kaggle, caplog):
    assert os.environ["HISTOFOLD_KAGGLE_ROOT"] == str(kaggle)
    with caplog.at_level(logging.INFO, "histofold"):
        summary = start()
        entry.show_summary(summary)
    assert summary.done == 3
    rows = rows_of(kaggle)
    assert [row[0] for row in rows[1:]] == IDS
    assert all(row[1] != "1 1" for row in rows[1:])
    assert "summary: 3 images" in caplog.text
    assert "90 x 120" in caplog.text
    assert [path.name for path in (kaggle / "working").iterdir()] == ["submission.csv"]
