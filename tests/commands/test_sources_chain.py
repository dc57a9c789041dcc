"""Several datasets, earlier weights and predicted labels through training and evaluation."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from safetensors.torch import load_file

from histofold.commands.main import main
from histofold.schema.dataset import DataConfig, SourceConfig
from histofold.schema.experiment import TrainConfig
from histofold.schema.parse import load_toml, to_toml
from small_datasets import BASE, build, draw, make_folder

pytestmark = pytest.mark.slow
TRAIN = TrainConfig(steps=4, batch=4, validate_every=4, save_every=2, workers=0)
NAMES = {"main": ("m", 0, 6), "second": ("s", 40, 4), "extra": ("e", 80, 4)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three datasets, and a run of the first."""
    folder = tmp_path_factory.mktemp("sources_chain")
    for name, (letter, first, count) in NAMES.items():
        pictures = {f"{letter}{number}": draw(first + number) for number in range(count)}
        build(make_folder(folder / f"raw_{name}", pictures), folder / name)
    train(folder, "pretrain", made_experiment(folder, "main"))
    assert main(["evaluate", str(folder / "runs" / "pretrain")]) == 0
    return folder


def made_experiment(folder, dataset, *sources, **model):
    data = DataConfig(dataset=str(folder / dataset), sources=sources)
    return replace(BASE, data=data, train=TRAIN, model=replace(BASE.model, **model))


def train(folder, name, experiment, *options, runs="runs"):
    (folder / f"{name}.toml").write_text(to_toml(experiment))
    return main(["train", str(folder / f"{name}.toml"), "--runs", str(folder / runs), *options])


def weights(folder, name, runs="runs", fold=0):
    return load_file(folder / runs / name / f"fold{fold}" / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all((first[key] == second[key]).all() for key in first)


def three_sources(made):
    return made_experiment(
        made,
        "main",
        SourceConfig(dataset=str(made / "second"), role="folds", weight=2),
        SourceConfig(dataset=str(made / "extra"), weight=0.5),
    )


def test_sources_are_trained_scored_and_written_down(made):
    experiment = three_sources(made)
    assert train(made, "three", experiment) == 0
    run = made / "runs" / "three"
    folds = {name: pd.read_csv(made / name / "folds.csv", dtype={"id": str}) for name in ("main", "second")}
    for fold in (0, 1):
        record = json.loads((run / f"fold{fold}" / "run.json").read_text())
        held_out = set(folds["main"].loc[folds["main"]["fold"] == fold, "id"])
        held_out |= {f"second/{key}" for key in folds["second"].loc[folds["second"]["fold"] == fold, "id"]}
        assert set(record["dice_by_id"]) == held_out
        assert not held_out & set(record["trained_on"])
        assert len(held_out) + len(record["trained_on"]) == 6 + 4 + 4
        assert load_toml(type(experiment), run / f"fold{fold}" / "experiment.toml") == experiment.as_trained()
    assert main(["evaluate", str(run)]) == 0
    oof = pd.read_csv(run / "oof.csv", dtype={"id": str})
    assert set(oof["id"]) == {f"m{n}" for n in range(6)} | {f"second/s{n}" for n in range(4)}


def test_resuming_with_sources_is_bit_identical(made, monkeypatch):
    import histofold.train.loop as loop

    experiment = three_sources(made)
    assert train(made, "whole", experiment, "--fold", "0") == 0
    save = loop.save_state

    def save_and_stop(folder, step, state):
        save(folder, step, state)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", save_and_stop)
    try:
        stopped = train(made, "cut", experiment, "--fold", "0")
    except KeyboardInterrupt:
        stopped = 130
    assert stopped
    monkeypatch.setattr(loop, "save_state", save)
    assert train(made, "cut", experiment, "--fold", "0", "--resume") == 0
    assert same(weights(made, "whole"), weights(made, "cut"))
    other = replace(experiment, data=replace(experiment.data, weight=5.0))
    assert train(made, "heavier", other, "--fold", "0") == 0
    assert not same(weights(made, "whole"), weights(made, "heavier"))


def test_each_fold_starts_from_its_own_fold_of_the_earlier_run(made, monkeypatch):
    import histofold.train.run as start

    begun = []
    load = start.load_initial_weights
    monkeypatch.setattr(start, "load_initial_weights", lambda model, path: (begun.append(path), load(model, path)))
    experiment = made_experiment(made, "main", init=str(made / "runs" / "pretrain"))
    assert train(made, "tuned", experiment) == 0
    assert begun == [made / "runs" / "pretrain" / f"fold{fold}" / "model.safetensors" for fold in (0, 1)]
    record = json.loads((made / "runs" / "tuned" / "fold0" / "run.json").read_text())
    before = json.loads((made / "runs" / "pretrain" / "fold0" / "run.json").read_text())
    assert record["trained_on"] == before["trained_on"]


def test_earlier_weights_that_saw_the_validation_images_are_refused(made, capsys):
    experiment = made_experiment(made, "main", init=f"file:{made}/runs/pretrain/fold1/model.safetensors")
    assert train(made, "leak", experiment, "--fold", "0") == 2
    assert "trained on 3 images that fold 0 is scored on" in capsys.readouterr().err
    assert train(made, "leak", experiment, "--fold", "1") == 0
    # Through another dataset: what was pretrained on all of it, cannot be scored on a part of it later.
    everything = made_experiment(made, "second", SourceConfig(dataset=str(made / "main"), name="first"))
    assert train(made, "all", everything, "--fold", "0") == 0
    experiment = made_experiment(made, "main", init=f"file:{made}/runs/all/fold0/model.safetensors")
    assert train(made, "later", experiment, "--fold", "0") == 2
    assert "it leaks" in capsys.readouterr().err
    # And through a third run, which itself was only trained on harmless images.
    chained = made_experiment(made, "extra", init=f"file:{made}/runs/all/fold0/model.safetensors")
    assert train(made, "chained", chained, "--fold", "0") == 0
    experiment = made_experiment(made, "main", init=f"file:{made}/runs/chained/fold0/model.safetensors")
    assert train(made, "last", experiment, "--fold", "0") == 2
    assert "it leaks" in capsys.readouterr().err


def test_predicted_labels_are_trained_on(made):
    arguments = ["build", "--data", str(made / "raw_extra"), "--pseudo-labels", str(made / "runs" / "pretrain")]
    assert main([*arguments, "--out", str(made / "labelled"), "--workers", "1"]) == 0
    assert train(made, "taught", made_experiment(made, "main", SourceConfig(dataset=str(made / "labelled")))) == 0
    for fold in (0, 1):
        record = json.loads((made / "runs" / "taught" / f"fold{fold}" / "run.json").read_text())
        assert {f"labelled/e{n}" for n in range(4)} < set(record["trained_on"])
        assert not set(record["dice_by_id"]) & set(record["trained_on"])
    assert main(["evaluate", str(made / "runs" / "taught")]) == 0


def test_a_run_whose_record_says_that_it_saw_its_validation_images_is_not_evaluated(made, capsys):
    path = made / "runs" / "pretrain" / "fold0" / "run.json"
    before = path.read_text()
    record = json.loads(before)
    record["trained_on"] |= dict.fromkeys(record["dice_by_id"], "")
    try:
        path.write_text(json.dumps(record))
        assert main(["evaluate", str(made / "runs" / "pretrain")]) == 2
        assert "that it was trained on" in capsys.readouterr().err
    finally:
        path.write_text(before)
