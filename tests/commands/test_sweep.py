import json
import shlex
from dataclasses import replace
from types import SimpleNamespace

import cv2
import pandas as pd
import pytest

from histofold.commands import parse_options
from histofold.commands.main import main
from histofold.commands.train import TrainOptions
from histofold.schema.dataset import DataConfig
from histofold.schema.experiment import Experiment, TrainConfig
from histofold.schema.parse import load_toml, to_toml
from histofold.schema.sweep import SettingSpace, SweepConfig, with_settings
from histofold.train.sweep.results import overrides
from histofold.train.sweep.search import forecast
from small_datasets import BASE, build, draw, make_folder


@pytest.mark.parametrize(
    "settings",
    [
        {"optim.lr": 3.3e-4, "optim.weight_decay": 0.0},
        {"train.balanced": False, "train.seed": 5},
        {"predict.blend": True, "predict.views": ["identity", "rot90"]},
        {"train.organs.large intestine": 0.5},
        {"model.encoder": "resnet18", "augment.crop": 64},
    ],
)
def test_the_printed_options_give_the_best_experiment(tmp_path, settings):
    best = with_settings(Experiment(), settings, "s.toml")
    words = shlex.split(overrides(best, list(settings)))
    default = TrainOptions(path=tmp_path / "e.toml", settings=Experiment())
    assert parse_options(TrainOptions, "train", [str(tmp_path / "e.toml"), *words], default).settings == best


def test_settings_that_have_no_option_are_told_by_the_file_alone():
    best = with_settings(Experiment(), {"data.sources": [{"dataset": "a"}]}, "s.toml")
    assert overrides(best, ["data.sources"]) is None
    assert overrides(best, ["optim"]) is None


def test_the_forecast_counts_trials_folds_and_steps():
    space = {"optim.lr": SettingSpace(values=(0.1, 0.2)), "train.steps": SettingSpace(values=(10, 30))}
    config = SweepConfig(space=space, folds=(0, 1), experiment=Experiment(train=TrainConfig(batch=4, steps=7)))
    assert forecast(config) == "4 trials x 2 folds: at most 160 steps, 640 tiles; val_dice decides"
    one = replace(config, space={"optim.lr": SettingSpace(low=0.1, high=0.2)}, sampler="random", trials=1, folds=(0,))
    assert forecast(one) == "1 trial x 1 fold: 7 steps, 28 tiles; val_dice decides"


@pytest.mark.parametrize(
    "arguments", [["s.csv"], ["nowhere.toml"], ["{tmp}/s.toml"], ["{tmp}/s.toml", "--workers", "0"]]
)
def test_bad_input_is_told_in_words(tmp_path, arguments, capsys):
    (tmp_path / "s.toml").write_text(f'[experiment.data]\ndataset = "{tmp_path}/none"\n[space]\noptim.lr = [1]\n')
    assert main(["sweep", *(part.format(tmp=tmp_path) for part in arguments)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A dataset of eight small pictures and an experiment of a few steps on it."""
    folder = tmp_path_factory.mktemp("sweep")
    make_folder(folder / "raw", {f"p{seed}": draw(seed) for seed in range(8)})
    train = TrainConfig(steps=4, batch=2, workers=0, validate_every=2, validate_images=1, save_every=2)
    experiment = replace(BASE, data=DataConfig(dataset=str(folder / "dataset")), train=train)
    build(folder / "raw", folder / "dataset", experiment)
    (folder / "base.toml").write_text(to_toml(experiment))
    return folder


@pytest.mark.slow
def test_a_small_sweep_from_start_to_end(workplace, tmp_path, capsys):
    text = 'experiment = "base.toml"\n[space]\n"optim.lr" = [1e-3, 1e30]\n"train.precision" = ["fp32", "bf16"]\n'
    (workplace / "s.toml").write_text(text)
    arguments = ["sweep", str(workplace / "s.toml"), "--runs", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "4 trials x 1 fold: 16 steps, 32 tiles" in printed
    assert "optimistic" in printed
    assert "--optim.lr 0.001" in printed
    table = pd.read_csv(tmp_path / "s" / "table.csv")
    assert table["state"].tolist() == ["complete", "complete", "failed", "failed"]
    assert table["note"].iloc[2:].str.contains("lower optim.lr").all()
    assert table["optim.lr"].iloc[0] == 1e-3
    done = table[table["state"] == "complete"]
    for row in done.itertuples():
        record = json.loads((tmp_path / "s" / row.folder / "fold0" / "run.json").read_text())
        assert record["dice"] == pytest.approx(row.val_dice)
        assert row.steps == 4
    assert not list((tmp_path / "s").rglob("state_*.pt")), "states of ended trials are dropped"
    best = load_toml(Experiment, tmp_path / "s" / "best.toml")
    assert best.optim.lr == 1e-3
    assert "optimistic" in (tmp_path / "s" / "best.toml").read_text()
    assert cv2.imread(str(tmp_path / "s" / "figure.png")) is not None
    assert (tmp_path / "s" / "report.html").stat().st_size > 10_000
    before = (tmp_path / "s" / "study.db").read_bytes()
    assert main(arguments) == 0, "run again, it has nothing to do"
    assert (tmp_path / "s" / "study.db").read_bytes() == before
    (workplace / "s.toml").write_text(text.replace("1e30", "1e-4"))
    assert main(arguments) == 2
    assert "optim.lr" in capsys.readouterr().err


@pytest.mark.slow
def test_pruned_trials_stop_early_over_two_folds(workplace, tmp_path):
    head = 'experiment = "base.toml"\nsampler = "random"\ntrials = 3\npruner = "halving"\nfolds = [1, 0]\n'
    (workplace / "p.toml").write_text(f'{head}[space]\n"optim.lr" = {{low = 1e-4, high = 1e-2, log = true}}\n')
    assert main(["sweep", str(workplace / "p.toml"), "--runs", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "p" / "table.csv")
    assert set(table["state"]) <= {"complete", "pruned"}
    assert (table.loc[table["state"] == "complete", "steps"] == 8).all()
    assert (table.loc[table["state"] == "pruned", "steps"] == 2).all()
    folders = {path.name for path in (tmp_path / "p" / "trials" / f"{table['trial'].iloc[0]:04d}").iterdir()}
    assert {"fold0", "fold1"} <= folders


@pytest.mark.slow
def test_a_sweep_by_the_shift_score_ranks_trials_by_what_evaluate_gives(workplace, tmp_path, capsys):
    text = 'experiment = "base.toml"\nmetric = "shift"\nfolds = [0, 1]\n[space]\n"optim.lr" = [1e-3, 1e-2]\n'
    (workplace / "h.toml").write_text(text)
    assert main(["sweep", str(workplace / "h.toml"), "--runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "2 trials x 2 folds: 16 steps, 32 tiles; shift decides" in printed
    table = pd.read_csv(tmp_path / "h" / "table.csv")
    assert table["shift"].is_monotonic_decreasing
    assert f"shift {table['shift'].iloc[0]:.4f} on fold 0, 1; chosen by its shift score" in printed
    assert f"shift {table['shift'].iloc[0]:.4f}" in (tmp_path / "h" / "best.toml").read_text()
    page = (tmp_path / "h" / "report.html").read_text()
    assert all(words in page for words in ("Best shift", "the shift score decides", "chosen by its shift score"))
    assert (table["shift"] - table["val_dice"]).abs().min() > 1e-6, "the slides are shown otherwise"
    trial = tmp_path / "h" / table["folder"].iloc[-1]
    for name in ("summary.json", "oof_scores.jsonl"):
        (trial / name).unlink()
    assert main(["evaluate", str(trial), "--shift"]) == 0
    shift = json.loads((trial / "summary.json").read_text())["shift"]["dice"]
    assert shift == pytest.approx(table["shift"].iloc[-1], abs=1e-9)


def test_a_task_without_a_shift_score_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    volumes = SimpleNamespace(competition=SimpleNamespace(task="volumes"))
    monkeypatch.setattr("histofold.train.sweep.search.load_sources", lambda experiment: [volumes])
    (tmp_path / "s.toml").write_text('metric = "shift"\n[experiment.optim]\nlr = 0.1\n[space]\noptim.lr = [1]\n')
    assert main(["sweep", str(tmp_path / "s.toml"), "--runs", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err
    assert "this is of volumes" in told
    assert 'set metric to "val_dice"' in told
    assert not (tmp_path / "runs").exists()
