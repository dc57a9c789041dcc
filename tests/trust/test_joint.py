"""Runs as one ensemble: predicted once for all shares, scored nested, and packaged with what was chosen."""

import shutil

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.imaging.slide import open_slide
from histofold.kaggle.package import package_runs
from histofold.predict.image import predict_image, predict_probabilities
from histofold.schema.manifest import Manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.train.fold import prepare_fold
from histofold.train.loop import train_fold
from histofold.trust.joint import evaluate_joint, joint_predictions, share_candidates
from small_runs import TinyNet, small_dataset, small_experiment
from small_stages import stages_of_models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_shares_are_parts_of_one_and_equal_ones_come_first(runs):
    tried = share_candidates(runs)
    assert tried[0] == (round(1 / runs, 6),) * runs
    assert len(set(tried)) == len(tried) == {2: 5, 3: 19, 5: 11}[runs]
    assert all(sum(shares) == pytest.approx(1, abs=1e-5) and min(shares) > 0 for shares in tried)
    assert {shares[::-1] for shares in tried} == set(tried), "no run is favoured for its place"


def test_each_of_the_shares_gives_what_the_packaged_ensemble_gives(tmp_path):
    torch.manual_seed(3)
    models = [TinyNet().eval() for _ in range(2)]
    rng = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "slide.tiff", rng.integers(0, 256, (90, 131, 3), np.uint8))
    fine = Manifest(competition="folder", preprocessing=Preprocessing(target_pixel_size_um=1.0), tile=64, halo=8)
    alone = [stages_of_models([model], fine) for model in models]
    candidates = [(0.5, 0.5), (0.8, 0.2)]
    with open_slide(tmp_path / "slide.tiff") as slide:
        probs_KHW = predict_probabilities(stages_of_models(models, fine), slide, 0.8)
        cuts = [float(np.quantile(probs_KHW, share)) for share in (0.3, 0.5, 0.7)]
        together = joint_predictions(alone, slide, 0.8, candidates, cuts)
        for shares, prediction in zip(candidates, together, strict=True):
            packaged = predict_image(stages_of_models(models, fine, list(shares)), slide, 0.8, cuts)
            for cut in cuts:
                first_HW, second_HW = (each.runs[cut].to_mask() for each in (prediction, packaged))
                assert 0 < first_HW.mean() < 1
                assert (first_HW != second_HW).mean() < 1e-3, "but for pixels at the threshold itself"
    assert together[0].runs[cuts[1]] != together[1].runs[cuts[1]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of the same two folds, and the file that joins them."""
    folder = tmp_path_factory.mktemp("joint")
    dataset = small_dataset(folder)
    with pytest.MonkeyPatch.context() as patch:
        for place in ("train.run.build_network", "trust.oof.build_network"):
            patch.setattr(f"histofold.{place}", lambda *_: TinyNet())
        for seed, name in enumerate(("A", "B")):
            experiment = small_experiment(dataset, train={"seed": seed})
            for fold in (0, 1):
                train_fold(prepare_fold(experiment, name, folder / "runs", fold, None), resume=False)
        (folder / "both.toml").write_text(f'runs = ["{folder}/runs/A", "{folder}/runs/B"]\n')
        yield folder


def test_an_ensemble_is_scored_and_packaged_with_what_it_chose(made, capsys):
    assert main(["evaluate", str(made / "both.toml")]) == 0
    *_, shares, score, _ = capsys.readouterr().out.splitlines()
    assert shares.startswith("shares")
    assert "left at 1 : 1" in shares
    found = evaluate_joint(made / "both.toml")
    assert found.lines()[-1] == score, "what was kept of it is not predicted again"
    assert score.startswith(f"out-of-fold Dice {found.oof['dice'].mean():.4f} (95% ")
    assert found.oof["id"].tolist() == pd.read_csv(made / "runs/both/oof.csv", dtype={"id": str})["id"].tolist()
    manifest = package_runs([made / "both.toml"], made / "weights")
    assert manifest.thresholds == found.summary["thresholds"]
    assert {member.weight for member in manifest.members} == {0.25}
    (made / "runs/both/summary.json").write_text('{"shares": 1}')
    with pytest.raises(InputError, match="no summary of an evaluation of runs together; run `histofold evaluate"):
        package_runs([made / "both.toml"], made / "weights")


def test_what_is_no_ensemble_is_refused(made, tmp_path, capsys):
    one_fold = tmp_path / "runs" / "C"
    shutil.copytree(made / "runs" / "A", one_fold)
    shutil.rmtree(one_fold / "fold1")
    (tmp_path / "odd.toml").write_text(f'runs = ["{made}/runs/B", "{one_fold}"]\n')
    with pytest.raises(InputError, match="does not hold out the same slides in the same folds as B"):
        evaluate_joint(tmp_path / "odd.toml")
    (tmp_path / "given.toml").write_text((made / "both.toml").read_text() + "shares = [2.0, 1.0]\n")
    with pytest.raises(InputError, match="given, and they are chosen here"):
        evaluate_joint(tmp_path / "given.toml")
    assert main(["evaluate", str(made / "both.toml"), "--beside", str(made / "runs" / "A")]) == 2
    assert "and this is a list of runs; name one run" in capsys.readouterr().err
