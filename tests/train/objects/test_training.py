"""Training on objects: a dense network and a detector, from tiles to the record of a run."""

import pandas as pd
import pytest
import torch

from histofold.schema.run_record import read_record
from histofold.train.checkpoint import state_paths
from histofold.train.loop import train_fold
from small_cells import DENSE, DETECTOR, built_cells, cells_setup, use_cells

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def known_cells():
    with pytest.MonkeyPatch.context() as patch:
        use_cells(patch)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return built_cells(tmp_path_factory.mktemp("cells"))


@pytest.mark.parametrize(
    ("model", "batch", "losses"),
    [
        (DENSE, 2, {"bce", "dice", "object_boundary", "object_distance"}),
        (DETECTOR, 1, {"classifier", "box_reg", "mask", "objectness", "rpn_box_reg"}),
    ],
    ids=["dense", "detector"],
)
def test_a_fold_is_trained_scored_and_goes_on_to_the_same_bytes(dataset, tmp_path, model, batch, losses):
    setup = cells_setup(dataset, tmp_path, model, train={"batch": batch})
    score = train_fold(setup, resume=False)
    log = pd.read_csv(setup.folder / "log.csv")
    assert {name for name in log.columns if name.startswith("loss_")} == {f"loss_{name}" for name in losses}
    assert log["val_ap50"].notna().sum() == 2
    assert log[[f"loss_{name}" for name in losses]].notna().all(axis=None)
    record = read_record(setup.folder)
    assert (record.metric, record.dice) == ("AP50", score)
    assert 0 <= score <= 1
    assert record.manifest.objects == setup.experiment.objects
    assert record.manifest.classes == (("cell", "boundary", "distance") if model is DENSE else ("cell",))
    assert record.arguments["classes"] == len(record.manifest.classes)
    assert set(record.dice_by_id) == {sample.id for sample in setup.validation}
    assert setup.score_words(score).startswith(f"fold 0: AP50 {score:.4f} on 2 slides")

    weights = (setup.folder / "model.safetensors").read_bytes()
    for path in (state_paths(setup.folder)[-1], setup.folder / "run.json"):
        path.unlink()
    assert [torch.load(path)["step"] for path in state_paths(setup.folder)] == [2]
    assert train_fold(setup, resume=True) == score
    assert (setup.folder / "model.safetensors").read_bytes() == weights
