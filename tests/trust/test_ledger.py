"""The table of all evaluated runs: scores, digests, and the board's word of their weights."""

import json
from dataclasses import replace

import pandas as pd

from histofold.schema.experiment import TrainConfig
from histofold.schema.files import write_atomically
from histofold.schema.parse import to_toml, write_json
from histofold.schema.run_record import settings_sha256
from histofold.trust.ledger import LEDGER_COLUMNS, write_ledger
from small_datasets import BASE, small_record


def make_run(runs, name, weights, seed=0, inputs=None, **summary):
    """An evaluated run of as many folds as there are weights."""
    experiment = replace(BASE, train=TrainConfig(seed=seed))
    for fold in range(len(weights)):
        folder = runs / name / f"fold{fold}"
        folder.mkdir(parents=True)
        small_record(folder, fold, settings_sha256=settings_sha256(experiment), inputs=inputs or {"pixels a": "1"})
        write_atomically(folder / "experiment.toml", to_toml(experiment))
    by_fold = {f"fold{fold}": digest for fold, digest in enumerate(weights)}
    figures = {"metric": "Dice", "dice": 0.8, "interval": [0.7, 0.9], "images": 6, "groups": 3, "missing_folds": []}
    write_json(runs / name / "summary.json", figures | {"weights_sha256": by_fold} | summary)


def submit(runs, name, weights, public):
    """A line of submissions.jsonl, and the weights that were uploaded."""
    folder = runs / "submissions" / name / "dataset"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"members": [{"sha256": digest} for digest in weights]}))
    with (runs / "submissions" / "submissions.jsonl").open("a") as stream:
        stream.write(json.dumps({"name": name, "public_score": public, "private_score": ""}) + "\n")


def test_every_evaluated_run_has_a_row_and_others_have_none(tmp_path):
    make_run(tmp_path, "masks", ["a0", "a1"])
    make_run(tmp_path, "objects", ["b0"], metric="AP", score=0.5, interval=None, dice=None)
    make_run(tmp_path, "volumes", ["c0"], metric="surface Dice", surface_dice=0.6)
    (tmp_path / "unfinished" / "fold0").mkdir(parents=True)
    make_run(tmp_path, "broken", ["d0"])
    (tmp_path / "broken" / "fold0" / "run.json").write_text("{")
    table = write_ledger(tmp_path)
    read = pd.read_csv(tmp_path / "ledger.csv").set_index("run")
    assert list(table.columns) == list(LEDGER_COLUMNS)
    assert set(read.index) == {"masks", "objects", "volumes"}
    assert read["score"].to_dict() == {"masks": 0.8, "objects": 0.5, "volumes": 0.6}
    assert read["folds"].to_dict() == {"masks": 2, "objects": 1, "volumes": 1}
    assert read.loc["masks", ["low", "high"]].tolist() == [0.7, 0.9]
    assert pd.isna(read.loc["objects", "low"])


def test_digests_tell_settings_data_and_weights_apart(tmp_path):
    make_run(tmp_path, "first", ["a0"])
    make_run(tmp_path, "again", ["a1"])
    make_run(tmp_path, "seed", ["a2"], seed=1)
    make_run(tmp_path, "mended", ["a3"], inputs={"pixels a": "2"})
    table = write_ledger(tmp_path).set_index("run")
    assert table.loc["first", "settings"] == table.loc["again", "settings"] != table.loc["seed", "settings"]
    assert table.loc["first", "data"] == table.loc["seed", "data"] != table.loc["mended", "data"]
    assert table["weights"].nunique() == 4
    assert table["seed"].to_dict() == {"first": 0, "again": 0, "seed": 1, "mended": 0}


def test_the_board_speaks_of_the_runs_whose_weights_were_submitted(tmp_path):
    make_run(tmp_path, "alone", ["a0", "a1"])
    make_run(tmp_path, "joined", ["b0"])
    make_run(tmp_path, "trained_anew", ["c1"])
    submit(tmp_path, "1", ["a0", "a1"], "0.70")
    submit(tmp_path, "2", ["a0", "a1", "b0"], "0.75")
    submit(tmp_path, "3", ["c0"], "0.90")
    submit(tmp_path, "4", ["a0", "a1"], "")
    board = write_ledger(tmp_path).set_index("run")["public"]
    assert board["alone"] == board["joined"] == "0.75"
    assert pd.isna(board["trained_anew"])
