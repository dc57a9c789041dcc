"""Two runs side by side."""

import dataclasses

import cv2
import pytest

from histofold.commands.main import main
from histofold.schema.dataset import DataConfig
from histofold.schema.experiment import TrainConfig
from histofold.schema.parse import to_toml
from small_datasets import BASE, build, draw, make_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trained runs of the same folds, the first of them evaluated."""
    folder = tmp_path_factory.mktemp("beside")
    root = make_folder(folder / "raw", {f"p{place}": draw(place) for place in range(4)})
    build(root, folder / "dataset")
    for seed in (0, 1):
        train = TrainConfig(steps=2, batch=2, workers=0, seed=seed)
        experiment = dataclasses.replace(BASE, data=DataConfig(dataset=str(folder / "dataset")), train=train)
        (folder / f"seed{seed}.toml").write_text(to_toml(experiment))
        assert main(["train", str(folder / f"seed{seed}.toml"), "--runs", str(folder / "runs")]) == 0
    assert main(["evaluate", str(folder / "runs" / "seed0")]) == 0
    return folder / "runs"


def test_a_run_that_is_not_evaluated_is_refused_and_then_compared(runs, capsys):
    command = ["evaluate", str(runs / "seed0"), "--beside", str(runs / "seed1")]
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr()
    assert f"{runs / 'seed1' / 'oof.csv'}: no such file; run `histofold evaluate {runs / 'seed1'}` first" in told.err
    assert not told.out  # nothing was predicted before
    assert main(["evaluate", str(runs / "seed1")]) == 0
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "seed0 to seed1: Dice" in printed
    assert "on 4 slides" in printed
    picture = cv2.imread(str(runs / "seed0" / "beside.png"))
    assert picture is not None
    assert picture.shape[1] > 5 * 420
