"""run.json: what is written is read, and nothing else is."""

import json
from dataclasses import replace

import pytest

from histofold.core.faults import InputError
from histofold.schema.dataset import DataConfig
from histofold.schema.experiment import Experiment
from histofold.schema.optim import OptimConfig
from histofold.schema.parse import to_toml
from histofold.schema.run_record import (
    file_settings_sha256,
    finished_records,
    keeps_settings,
    read_record,
    read_records,
    settings_sha256,
    write_record,
)
from small_datasets import small_record


def test_what_is_written_is_read_and_written_again_alike(tmp_path):
    small_record(tmp_path / "fold0", 0, dice_by_id={"a": 0.25}, trained_on={"b": "", "c": "stamp"})
    text = (tmp_path / "fold0" / "run.json").read_bytes()
    write_record(tmp_path / "again", read_record(tmp_path / "fold0"))
    assert (tmp_path / "again" / "run.json").read_bytes() == text


@pytest.mark.parametrize("name", ["digest", "limit", "dice_by_id", "trained_on", "manifest", "arguments"])
def test_a_record_that_lacks_anything_is_refused_by_its_name(tmp_path, name):
    small_record(tmp_path / "fold0", 0)
    path = tmp_path / "fold0" / "run.json"
    record = json.loads(path.read_text())
    del record[name]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=rf"fold0.*no record of a finished fold \({name}: missing key\); copy the run"):
        read_record(path.parent)


@pytest.mark.parametrize("content", ["", '{"fold": 0', "[1]", '{"fold": "0"}'])
def test_cut_and_foreign_files_are_refused_all_at_once(tmp_path, content):
    for fold in range(3):
        small_record(tmp_path / f"fold{fold}", fold)
    for fold in (0, 2):
        (tmp_path / f"fold{fold}" / "run.json").write_text(content)
    with pytest.raises(InputError, match="no record of a finished fold") as caught:
        read_records(tmp_path)
    assert {fault.id for fault in caught.value.faults} == {"fold0", "fold2"}


def test_overfitting_checks_are_read_but_do_not_count(tmp_path):
    with pytest.raises(InputError, match="no finished fold here"):
        finished_records(tmp_path)
    small_record(tmp_path / "fold1", 1)
    small_record(tmp_path / "fold0", 0)
    assert [record.fold for record in finished_records(tmp_path).values()] == [0, 1]
    small_record(tmp_path / "fold1", 1, limit=2)
    assert [record.limit for record in read_records(tmp_path).values()] == [None, 2]
    with pytest.raises(InputError, match=r"fold1.*an overfitting check on 2 images"):
        finished_records(tmp_path)


def test_settings_count_as_the_file_has_them_wherever_the_data_lies(tmp_path):
    experiment = Experiment(optim=OptimConfig(lr=3e-4))
    moved = replace(experiment, data=DataConfig(dataset="elsewhere"))
    path = tmp_path / "experiment.toml"
    path.write_text(to_toml(moved))
    assert settings_sha256(experiment) == settings_sha256(moved) == file_settings_sha256(path)
    path.write_text(to_toml(moved).replace("lr = 0.0003", "lr = 0.0004"))
    assert file_settings_sha256(path) != settings_sha256(experiment)


def test_settings_that_came_after_a_run_leave_it_as_it_is(tmp_path):
    """The file of an earlier version lacks them; what the run wrote is what was digested then."""
    earlier = "".join(line for line in to_toml(Experiment()).splitlines(True) if not line.startswith("clip"))
    path = tmp_path / "experiment.toml"
    path.write_text(earlier)
    small_record(tmp_path, 0, settings_sha256=file_settings_sha256(path))
    record = read_record(tmp_path)
    assert file_settings_sha256(path) != settings_sha256(Experiment())
    assert keeps_settings(tmp_path, record)
    path.write_text(earlier.replace("weight_decay", "# weight_decay"))
    assert not keeps_settings(tmp_path, record)
    path.write_text(earlier[:-20] + "[")
    assert not keeps_settings(tmp_path, record)
