import dataclasses
from dataclasses import is_dataclass
from functools import partial

import pytest

from histofold.core.faults import InputError
from histofold.schema.dataset import DataConfig, SourceConfig
from histofold.schema.experiment import Experiment, JointRuns
from histofold.schema.manifest import Manifest, Member
from histofold.schema.parse import load_toml, parse_dataclass, plain, read_toml, to_toml
from histofold.schema.prediction import PredictConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.sweep import load_sweep


def test_toml_round_trip_of_an_experiment(tmp_path):
    experiment = Experiment()
    changed = dataclasses.replace(
        experiment,
        optim=dataclasses.replace(experiment.optim, lr=3.3e-4),
        predict=dataclasses.replace(experiment.predict, views=("identity", "rot90"), blend=True),
        data=dataclasses.replace(experiment.data, dataset='odd "name" \\ ü'),
    )
    for value in (experiment, changed):
        path = tmp_path / "experiment.toml"
        path.write_text(to_toml(value), encoding="utf-8")
        assert load_toml(Experiment, path) == value


def test_plain_round_trip_of_a_manifest():
    member = Member(file="a.safetensors", sha256="0" * 64, architecture="unet", arguments={"classes": 1, "x": [1, 2]})
    manifest = Manifest(
        competition="hubmap_2022",
        preprocessing=Preprocessing(),
        members=(member, dataclasses.replace(member, preprocessing=Preprocessing(scale_mode="whole"))),
        thresholds={"default": 0.4, "kidney/HPA": 0.5},
    )
    assert parse_dataclass(Manifest, plain(manifest), "manifest.json") == manifest


def test_all_faults_at_once_with_the_known_keys(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        '[optim]\nlearning_rate = 1\nlr = "fast"\n[tiles]\nsize = 500\n[train]\nprecision = "fp8"\n[extra]\n'
    )
    with pytest.raises(InputError) as caught:
        load_toml(Experiment, path)
    text = str(caught.value)
    assert len(caught.value.faults) == 5
    assert "optim.learning_rate" in text
    assert "known keys here: average_every, average_from, betas, clip, ema, encoder_" in text
    assert "'fast' is str; write float" in text
    assert "multiple of 32" in text
    assert "'fp32', 'bf16', 'fp16'" in text
    assert "extra" in text
    assert str(path) in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[optim]\nlr = nan", "nan is float"),
        ("[train]\nsteps = true", "True is bool"),
        ("[train]\nsteps = 1.5", "1.5 is float"),
        ("[train]\nbalanced = 1", "1 is int"),
        ("[tiles]\narea_bins = [0.1, 0.2]", "2 values; write 3"),
        ("[tiles]\narea_bins = [0.3, 0.2, 0.1]", "must rise"),
        ("optim = 3", "expected a table"),
        ("[optim\nlr = 1", "not a TOML file"),
        ('[data]\ndataset = "C:\\data"', "write / in paths"),
        ("[predict]\nviews = 3", r"write a list, \[...\]"),
        ("[predict]\nviews = []", "not be empty"),
        ('[predict]\nviews = ["identity", "hflp"]', "known are identity"),
        ("[predict]\nstride = 600", "stride=600"),
        ("[model]\nclasses = 8", "1 to 7"),
        ("[train]\nseed = -1", "seed=-1"),
        ("[augment]\nflip = 1.5", "probability"),
        ("[optim]\nlr = 0", "lr must be positive"),
    ],
)
def test_wrong_values_are_refused_in_words(tmp_path, text, words):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        load_toml(Experiment, path)


def test_ints_serve_as_floats(tmp_path):
    path = tmp_path / "e.toml"
    path.write_text("[optim]\nlr = 1\n")
    lr = load_toml(Experiment, path).optim.lr
    assert lr == 1.0
    assert isinstance(lr, float)


def test_missing_file_is_told():
    with pytest.raises(InputError, match="No such file"):
        load_toml(Experiment, __import__("pathlib").Path("nowhere.toml"))


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment().optim.lr = 1.0


def test_committed_experiments_parse(project_root):
    paths = sorted((project_root / "experiments").glob("*.toml"))
    assert paths
    kinds = {"space": load_sweep, "runs": partial(load_toml, JointRuns)}
    for path in paths:
        load = next((kinds[key] for key in kinds if key in read_toml(path)), partial(load_toml, Experiment))
        assert is_dataclass(load(path)), path
    assert {load_toml(JointRuns, path).runs for path in paths if "runs" in read_toml(path)}


def test_a_tuple_of_dataclasses_is_an_array_of_tables_that_reads_back(tmp_path):
    sources = (SourceConfig(dataset="a"), SourceConfig(dataset='b "quoted"', weight=2.5, role="folds"))
    path = tmp_path / "experiment.toml"
    for number in range(3):
        experiment = Experiment(data=DataConfig(sources=sources[:number]))
        path.write_text(to_toml(experiment))
        assert load_toml(Experiment, path) == experiment
        assert path.read_text().count("[[data.sources]]") == number
    path.write_text('[[data.sources]]\ndataset = "a"\nwheight = 2\n\n[[data.sources]]\nweight = 1\n')
    with pytest.raises(InputError) as caught:
        load_toml(Experiment, path)
    assert [fault.id for fault in caught.value.faults] == ["data.sources[0].wheight", "data.sources[1].dataset"]


def test_shares_of_runs_are_one_for_each():
    assert JointRuns(runs=("runs/A", "runs/B"), shares=(2.0, 1.0)).shares == (2.0, 1.0)
    with pytest.raises(ValueError, match="a positive number for each of the 2 runs"):
        JointRuns(runs=("runs/A", "runs/B"), shares=(2.0,))
    with pytest.raises(ValueError, match="a positive number"):
        JointRuns(runs=("runs/A",), shares=(0.0,))


def test_a_retired_setting_is_read_over_where_it_was_off_and_refused_where_it_did_something():
    assert parse_dataclass(PredictConfig, {"smooth_um": 0.0}, "old.toml") == PredictConfig()
    with pytest.raises(InputError, match="gained nothing"):
        parse_dataclass(PredictConfig, {"smooth_um": 2.0}, "old.toml")
