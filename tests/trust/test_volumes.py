"""Volumes out-of-fold: from slices to surface Dice, whole, resumed, and equal to the metric of stacked masks."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from histofold.competitions.registry import get_competition
from histofold.core.faults import InputError
from histofold.core.metrics import surface_dice
from histofold.data.build import build_dataset
from histofold.data.store import complete_preprocessing, load_dataset
from histofold.data.tiles.files import read_tile
from histofold.imaging.planes import gather_volume, sorted_volumes
from histofold.imaging.slide import open_sample
from histofold.predict.volumes import cut_volume, predict_volume
from histofold.report.evaluation import write_evaluation_report
from histofold.schema.augment import AugmentConfig
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import Experiment, ModelConfig, PredictConfig, TrainConfig
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.volumes import VolumeConfig
from histofold.train.loop import train_experiment
from histofold.trust import volumes
from histofold.trust.evaluate import evaluate_run
from histofold.trust.oof import finished_folds, run_thresholds
from html_pages import parse
from small_datasets import SMALL_UNET

pytestmark = pytest.mark.slow

SHAPE = (5, 48, 70)
NO_COLOUR = AugmentConfig(preset="none", crop=64)


def make_kidney(root: Path, name: str, seed: int) -> np.ndarray:
    """A volume of bright tubes; gives their mask."""
    rng = np.random.default_rng(seed)
    truth_DHW = np.zeros(SHAPE, bool)
    for _ in range(4):
        y, x = rng.integers(8, 40), rng.integers(8, 60)
        for z in range(SHAPE[0]):
            y, x = y + rng.integers(-2, 3), x + rng.integers(-2, 3)
            truth_DHW[z, max(0, y - 4) : y + 4, max(0, x - 4) : x + 4] = True
    values_DHW = 20_000 + 9000 * truth_DHW + rng.integers(0, 2000, SHAPE)
    for folder, stack in (("images", values_DHW.astype(np.uint16)), ("labels", truth_DHW.astype(np.uint8) * 255)):
        (root / "train" / name / folder).mkdir(parents=True)
        for number, slice_HW in enumerate(stack):
            cv2.imwrite(str(root / "train" / name / folder / f"{number:04d}.tif"), slice_HW)
    return truth_DHW


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run of two kidneys, trained for a few steps and evaluated: its folder, its evaluation, the truth."""
    root = tmp_path_factory.mktemp("volumes")
    truth = {name: make_kidney(root / "raw", name, seed) for seed, name in enumerate(("kidney_1_dense", "kidney_2"))}
    experiment = Experiment(
        data=DataConfig(dataset=str(root / "dataset")),
        preprocessing=Preprocessing(target_pixel_size_um=50.0, slices=5),
        tiles=TilesConfig(size=64, stride=32, min_tissue=0.0, folds=2),
        augment=NO_COLOUR,
        model=ModelConfig(**SMALL_UNET),
        train=TrainConfig(steps=30, batch=4, workers=0, validate_every=30, save_every=30),
        predict=PredictConfig(tile=64, halo=0, views=("identity",)),
        volume=VolumeConfig(min_voxels=3, most_share=0.3),
    )
    build_dataset(root / "raw", get_competition("sennet_2024"), experiment, root / "dataset", None, 1)
    list(train_experiment(experiment, "small", root / "runs", fold=None, resume=False, limit=None))
    return root / "runs" / "small", evaluate_run(root / "runs" / "small"), truth


def test_tiles_hold_the_slices_that_the_network_sees_and_serve_networks_that_see_fewer(evaluated):
    run, evaluation, _ = evaluated
    dataset = run.parents[1] / "dataset"
    info, index, _ = load_dataset(dataset)
    row = index[index["id"] == "kidney_2_0002"].iloc[0]
    image_HWC, mask_HW = read_tile(dataset, row["tile_id"])
    assert image_HWC.shape == (*mask_HW.shape, 5)
    for channel, number in enumerate((0, 1, 2, 3, 4)):
        with open_sample(evaluation.samples[f"kidney_2_{number:04d}"]) as slide:
            region = slide.read(slice(0, 48), slice(row["x"], row["x"] + 64), channels=1)[:, :, 0]
        np.testing.assert_array_equal(image_HWC[: len(region), :, channel], region)
    for slices in (1, 3):
        seen = replace(info.preprocessing, slices=slices)
        assert complete_preprocessing(Experiment(preprocessing=seen, augment=NO_COLOUR), info, dataset).slices == slices
    fewer = replace(info, preprocessing=replace(info.preprocessing, slices=3))
    with pytest.raises(InputError, match="cut with 3 and the experiment says 5"):
        complete_preprocessing(Experiment(preprocessing=info.preprocessing, augment=NO_COLOUR), fewer, dataset)


def test_a_fold_holds_out_a_whole_kidney(evaluated):
    _, evaluation, _ = evaluated
    folds = {key: set(part["source"]) for key, part in evaluation.oof.groupby("fold")}
    assert sorted(map(len, folds.values())) == [1, 1]
    assert len(evaluation.oof) == 2 * SHAPE[0]


def test_scores_are_those_of_the_stacked_masks(evaluated, tmp_path):
    run, evaluation, truth = evaluated
    expected = {}
    for fold in finished_folds(run):
        held_out = [s for s in evaluation.samples.values() if s.id in fold.record.dice_by_id]
        ((name, samples),) = sorted_volumes(held_out).items()
        (tmp_path / name).mkdir()
        grey = gather_volume(samples, tmp_path / name)
        assert fold.manifest.volume == VolumeConfig(min_voxels=3, most_share=0.3)
        map_DHW = predict_volume(fold.ensemble(), grey, fold.manifest.volume.axes, tmp_path / name)
        masks_DHW = np.stack([runs.to_mask() for runs in cut_volume(map_DHW, 0.5, fold.manifest)])
        expected[name] = surface_dice(masks_DHW, truth[name])
    assert evaluation.summary["surface_dice_at_half"] == pytest.approx(np.mean(list(expected.values())))
    headline = evaluation.lines()[-1]
    assert headline.startswith(f"out-of-fold surface Dice {evaluation.score:.4f} (95% ")
    assert evaluation.summary["volumes"].keys() == truth.keys()


def test_the_chosen_threshold_is_that_of_the_share_that_vessels_have(evaluated):
    run, _, truth = evaluated
    shown = np.mean([stack_DHW.mean() for stack_DHW in truth.values()])
    assert (1 - run_thresholds(run)["default"]) * 0.3 == pytest.approx(shown, abs=0.06)


def test_an_evaluation_goes_on_where_it_was(evaluated, monkeypatch):
    run, evaluation, _ = evaluated
    monkeypatch.setattr(volumes, "predict_volume", None)  # nothing is predicted again
    again = evaluate_run(run)
    assert again.summary == evaluation.summary


def test_its_page_begins_with_the_hosts_score_and_names_each_volume(evaluated):
    run, evaluation, _ = evaluated
    write_evaluation_report(evaluation)
    page = parse((run / "report.html").read_text(), run)
    text = " ".join(page.text.split())
    assert text.index(f"{evaluation.score:.4f}") < text.index(f"{evaluation.summary['dice']:.4f}")
    assert {name for name, *_ in page.rows} >= evaluation.summary["volumes"].keys()
    assert "in training, which sees slices along one axis" in text
    assert "on the dashed line it is right" not in text, "probabilities of volumes are not kept"
