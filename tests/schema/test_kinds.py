"""One thing given where another is wanted is named as what it is."""

import pytest

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.schema.dataset import DataConfig, SourceConfig
from histofold.schema.experiment import Experiment, with_moved_data
from histofold.schema.files import moved_path
from histofold.schema.kinds import KINDS, require_kind


@pytest.fixture
def places(tmp_path):
    """A path of each kind that can be recognised."""
    files = {
        "E.toml": "[train]\nsteps = 3\n",
        "S.toml": 'experiment = "E.toml"\n[space]\n"optim.lr" = [0.1]\n',
        "J.toml": 'runs = ["runs/E"]\n',
        "runs/E/fold0/experiment.toml": "",
        "runs/E/fold1/run.json": "{}",
        "dataset/dataset.json": "{}",
        "weights/manifest.json": '{"format": "histofold/1"}',
        "raw/images/a.png": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    names = {"experiment": "E.toml", "sweep": "S.toml", "joint runs": "J.toml", "run": "runs/E", "fold": "runs/E/fold1"}
    names |= {"dataset": "dataset", "weights": "weights", "data": "raw"}
    return {kind: tmp_path / name for kind, name in names.items()}


@pytest.mark.parametrize("wanted", KINDS)
def test_each_kind_passes_for_itself_and_is_refused_by_name_for_another(places, wanted):
    for kind, path in places.items():
        if kind in (wanted, "data"):  # raw folders have many layouts: what is not recognised passes
            require_kind(path, wanted)
            continue
        with pytest.raises(InputError, match=rf"is {KINDS[kind][0]}, and {KINDS[wanted][0]} is wanted; ") as caught:
            require_kind(path, wanted)
        assert str(path) in str(caught.value)


def test_a_name_that_is_nearly_there_is_offered(places):
    with pytest.raises(InputError, match=r"weigths: no such file or folder; did you mean .*weights\?"):
        require_kind(places["weights"].with_name("weigths"), "weights")
    with pytest.raises(InputError, match="check the path"):
        require_kind(places["run"] / "nothing like it", "run")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "{run}"], "is a run, and an experiment is wanted"),
        (["train", "{sweep}"], "is a sweep, and an experiment is wanted"),
        (["sweep", "{experiment}"], "is an experiment, and a sweep is wanted"),
        (["evaluate", "{experiment}"], "is an experiment, and a run is wanted"),
        (["evaluate", "{fold}"], "is one fold of a run, and a run is wanted"),
        (["package", "{experiment}"], "is an experiment, and a run is wanted"),
        (["predict", "--weights", "{run}", "--data", "{data}", "--out", "x.csv"], "is a run, and a folder of weights"),
        (
            ["predict", "--weights", "{weights}", "--data", "{dataset}", "--out", "x.csv"],
            "is a built dataset, and a fol",
        ),
        (["build", "--data", "{dataset}"], "is a built dataset, and a folder of images is wanted"),
        (["check", "weights", "{run}"], "is a run, and a folder of weights is wanted"),
        (["check", "dataset", "{dataset}"], "is a built dataset, and a folder of images is wanted"),
        (["demo", "--data", "{weights}"], "is a folder of weights, and a folder of images is wanted"),
    ],
)
def test_verbs_name_what_they_were_given(places, arguments, words, capsys):
    assert main([part.format(**places) for part in arguments]) == 2
    assert words in capsys.readouterr().err


def test_paths_of_a_moved_project_are_found_by_their_ends(tmp_path, caplog):
    new = tmp_path / "new" / "project"
    (new / "deep" / "dataset").mkdir(parents=True)
    beside = new / "runs" / "E" / "fold0" / "experiment.toml"
    for path in ("/gone/project/deep/dataset", "deep/dataset", "/gone/dataset/../deep/dataset"):
        assert moved_path(type(new)(path), beside) == new / "deep" / "dataset"
    assert f"{new / 'deep' / 'dataset'} is taken" in caplog.text or caplog.text == ""
    for path in (tmp_path, type(new)("/gone/elsewhere"), type(new)("nothing")):
        assert moved_path(path, beside) == path
    data = DataConfig(dataset="/gone/deep/dataset", sources=(SourceConfig(dataset="deep/dataset"),))
    found = with_moved_data(Experiment(data=data), beside).data
    assert found.dataset == found.sources[0].dataset == str(new / "deep" / "dataset")


def test_what_lies_below_or_above_is_offered(places):
    root = places["weights"].parent
    with pytest.raises(InputError, match=r"is not a folder of weights; did you mean .*/weights\?"):
        require_kind(root, "weights")
    with pytest.raises(InputError, match=r"is not a folder of weights; did you mean .*/weights\?"):
        require_kind(places["weights"] / "manifest.json", "weights")
    with pytest.raises(InputError, match=r"is not a run; did you mean .*/runs/E\?"):
        require_kind(root, "run")
    require_kind(root, "data")


def test_a_file_that_is_a_folder_is_named_and_not_the_one_written_aside(places, capsys, monkeypatch):
    monkeypatch.chdir(places["weights"].parent)
    assert main(["check", "dataset", "raw", "--report", "runs"]) == 2
    assert "runs: Is a directory" in capsys.readouterr().err


def test_an_archive_is_named_where_a_folder_is_wanted(tmp_path):
    (tmp_path / "own.ZIP").write_bytes(b"PK")
    with pytest.raises(InputError, match="is an archive; unpack it"):
        require_kind(tmp_path / "own.ZIP", "data")
