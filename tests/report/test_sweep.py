import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histofold.report.sweep import _edges, _is_grid, _levels, plot_sweep, write_sweep_report

pytestmark = pytest.mark.slow


def trials(settings, states=None):
    """A table as a sweep gives it, with scores that fall from trial to trial."""
    count = len(next(iter(settings.values())))
    table = pd.DataFrame({"trial": range(count), **settings})
    table["val_dice"] = np.linspace(0.9, 0.5, count)
    table["loss"] = 1 - table["val_dice"]
    table["state"] = states or ["complete"] * count
    table.loc[table["state"].isin(["failed", "waiting"]), ["val_dice", "loss"]] = np.nan
    table["folder"] = [f"trials/{number:04d}" for number in range(count)]
    return table


def pixels(png):
    return np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


GRID = {"optim.lr": [1e-4, 1e-4, 1e-3, 1e-3, 1e-2, 1e-2], "optim.weight_decay": [0.0, 0.1] * 3}


@pytest.mark.parametrize(
    "settings",
    [
        GRID,
        {"optim.lr": [1e-4, 1e-3, 1e-2]},
        {"optim.lr": [0.5]},
        {"model.encoder": ["a", "b", "a", "b"], "train.balanced": [True, True, False, True]},
        {"optim.lr": list(np.geomspace(1e-5, 1e-1, 20)), "train.steps": list(range(20)), "x": ['["a"]'] * 20},
    ],
)
def test_every_kind_of_sweep_is_drawn(settings, tmp_path):
    drawn = plot_sweep(trials(settings), list(settings), "val_dice", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes() == drawn
    assert pixels(drawn).std() > 5


def test_equal_data_gives_equal_bytes_and_the_metric_decides_the_best():
    table = trials({"optim.lr": [1e-4, 1e-3]}).assign(loss=[0.5, 0.4])
    drawn = plot_sweep(table, ["optim.lr"], "val_dice")
    assert drawn == plot_sweep(table, ["optim.lr"], "val_dice") != plot_sweep(table, ["optim.lr"], "loss")


def test_a_shift_score_that_decides_is_drawn_instead_of_the_plain_one(tmp_path):
    table = trials(GRID).assign(shift=np.linspace(0.1, 0.4, 6))
    drawn = plot_sweep(table, list(GRID), "shift")
    assert drawn != plot_sweep(table, list(GRID), "val_dice")
    assert drawn == plot_sweep(table.assign(val_dice=0.5), list(GRID), "shift")
    write_sweep_report(tmp_path, table.iloc[::-1], list(GRID), "shift", "note")
    text = (tmp_path / "report.html").read_text()
    assert all(words in text for words in ("Best shift", "0.4000", "the shift score decides"))


@pytest.mark.parametrize("settings", [GRID, {"optim.lr": [1e-4, 2e-4, 1e-3, 2e-3, 1e-2, 2e-2]}])
def test_trials_without_a_whole_run_are_drawn_otherwise(settings):
    ends = ["complete", "failed", "pruned"]
    drawn = [plot_sweep(trials(settings, ["complete"] * 5 + [end]), list(settings), "val_dice") for end in ends]
    assert len(set(drawn)) == 3
    nothing = plot_sweep(trials(settings, ["waiting"] * 6), list(settings), "val_dice")
    assert nothing not in drawn


def test_a_setting_that_did_not_vary_is_left_out():
    table = trials({"optim.lr": [0.1, 0.2], "train.steps": [30] * 2})
    assert plot_sweep(table, ["train.steps", "optim.lr"], "loss") == plot_sweep(table, ["optim.lr"], "loss")


def test_a_map_needs_every_cell_once():
    names = list(GRID)
    assert _is_grid(trials(GRID), names)
    assert not _is_grid(trials({"optim.lr": [1, 1, 2], "optim.weight_decay": [1, 2, 1]}), names)
    assert not _is_grid(trials({"optim.lr": [1, 1, 2, 2], "optim.weight_decay": [1, 1, 2, 2]}), names)


def test_cells_meet_halfway_on_a_logarithmic_axis():
    assert _edges([1e-4, 1e-3, 1e-2]) == pytest.approx([10**-4.5, 10**-3.5, 10**-2.5, 10**-1.5])
    assert _edges([0.0, 1e-3, 1.0]) == pytest.approx([-0.5, 0.5, 1.5, 2.5])
    assert _levels(pd.Series([3, 1, 2, 1])) == [1, 2, 3]
    assert _levels(pd.Series(["b", "a", "b"])) == ["b", "a"]


def test_the_page_says_that_the_best_score_is_optimistic(tmp_path):
    table = trials(GRID, ["complete"] * 5 + ["failed"])
    write_sweep_report(tmp_path, table, list(GRID), "val_dice", "optimistic!")
    text = (tmp_path / "report.html").read_text()
    assert all(words in text for words in ("optimistic!", "0.9000", "optim.lr", "Failed trials", "data:image/png"))
    none = trials(GRID, ["failed"] * 6)
    write_sweep_report(tmp_path, none, list(GRID), "loss", "note")
    assert "Best loss" not in (tmp_path / "report.html").read_text()
