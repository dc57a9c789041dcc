"""Several classes from a plain folder to rows: build, train, evaluate, package, predict, check."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from histofold.commands.main import main
from histofold.competitions.base import masks_dice
from histofold.competitions.folder import Folder
from histofold.core.faults import InputError
from histofold.core.rle.runs import parse_rle
from histofold.data.sources import JoinedTruth, joined_samples, load_sources
from histofold.kaggle.package import package_runs
from histofold.predict.submission.shards import predict_folder
from histofold.report.comparison import comparison_sheet
from histofold.schema.dataset import SourceConfig
from histofold.schema.manifest import load_manifest
from histofold.schema.parse import to_toml
from histofold.trust.evaluate import evaluate_run
from histofold.trust.oof import finished_folds, run_experiment
from histofold.trust.pseudo_labels import pseudo_record
from small_datasets import build, draw
from small_runs import small_experiment

NAMES = ("red", "green", "blue")


def class_folder(root, names, count=8):
    """Pictures of three colours whose classes are where each colour is strong; they overlap."""
    (root / "images").mkdir(parents=True)
    for seed in range(count):
        image_HWC, _ = draw(seed)
        cv2.imwrite(str(root / "images" / f"p{seed}.png"), image_HWC[..., ::-1])
        for number, name in enumerate(names):
            (root / "masks" / name).mkdir(parents=True, exist_ok=True)
            mask_HW = image_HWC[:, :, number] > 150
            cv2.imwrite(str(root / "masks" / name / f"p{seed}.png"), mask_HW.astype(np.uint8) * 255)
    (root / "classes.txt").write_text("\n".join(names))
    return root


def trained(folder, names, activation, steps):
    """A run of both folds on a folder of these classes; gives the run and the raw folder."""
    raw = class_folder(folder / "raw", names)
    model = {"classes": len(names), "activation": activation}
    loss = {"bce": 0.0, "ce": 1.0} if activation == "softmax" else {}
    dataset = build(raw, folder / "dataset")
    train = {"steps": steps, "validate_every": steps, "save_every": steps}
    experiment = small_experiment(dataset, model=model, loss=loss, train=train)
    (folder / "E.toml").write_text(to_toml(experiment))
    assert main(["train", str(folder / "E.toml"), "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "E", raw


@pytest.mark.slow
def test_three_classes_from_folder_to_rows(tmp_path, capsys):
    run, raw = trained(tmp_path, NAMES, "sigmoid", 4)
    summary = evaluate_run(run).summary
    oof = pd.read_csv(run / "oof.csv")
    own = [f"dice_{name}" for name in NAMES]
    assert list(oof.columns) == ["id", "fold", "organ", "source", "dice", *own]
    np.testing.assert_allclose(oof["dice"], oof[own].mean(axis=1), atol=1e-6)
    assert summary["dice"] == pytest.approx(oof["dice"].mean(), abs=1e-6)
    assert summary["classes"] == pytest.approx({name: oof[f"dice_{name}"].mean() for name in NAMES}, abs=1e-6)
    thresholds = json.loads((run / "thresholds.json").read_text())
    assert set(thresholds) == {"default", *(f"class:{name}" for name in NAMES)}
    before = (run / "oof.csv").read_bytes()
    assert main(["evaluate", str(run)]) == 0, "from the scores that the journal kept"
    assert "Dice by class: red" in capsys.readouterr().out
    assert (run / "oof.csv").read_bytes() == before

    sources = load_sources(run_experiment(run))
    sheet_HWC = comparison_sheet([run], JoinedTruth(sources), joined_samples(sources), slides=1)
    assert sheet_HWC.shape[0] > 0.6 * sheet_HWC.shape[1], "a row for each class, of three pictures"

    package_runs([run], tmp_path / "weights")
    manifest = load_manifest(tmp_path / "weights")
    assert manifest.classes == NAMES
    assert manifest.thresholds == thresholds
    out = tmp_path / "s.csv"
    arguments = ["predict", "--weights", str(tmp_path / "weights"), "--data", str(raw), "--out", str(out)]
    assert main(arguments) == 0
    rows = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert list(rows.columns) == ["id", "class", "rle"]
    assert list(zip(rows["id"], rows["class"], strict=True)) == [(f"p{n}", name) for n in range(8) for name in NAMES]
    assert main(["check", "submission", str(out), "--data", str(raw)]) == 0

    # What was written is read as the truth of a folder, and is the same masks.
    as_truth = tmp_path / "as_truth"
    as_truth.mkdir()
    (as_truth / "images").symlink_to(raw / "images", target_is_directory=True)
    (as_truth / "rles.csv").write_bytes(out.read_bytes())
    folder = Folder()
    samples = folder.samples(as_truth, "train")
    assert folder.classes == NAMES
    for sample in samples:
        of_image = rows[rows["id"] == sample.id]
        written = tuple(parse_rle(rle, (52, 64)) for rle in of_image["rle"])
        assert masks_dice(written, folder.target(sample)) == 1.0
    with pytest.raises(InputError, match="labels are predicted of one class"):
        pseudo_record([run], [finished_folds(run)])


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_two_classes_of_either_activation_are_trained_and_predicted(tmp_path, activation):
    run, raw = trained(tmp_path, NAMES[:2], activation, 4)
    package_runs([run], tmp_path / "weights")
    manifest = load_manifest(tmp_path / "weights")
    assert [member.arguments.get("activation", "sigmoid") for member in manifest.members] == [activation] * 2
    assert manifest.thresholds == {"default": 0.5}
    predict_folder(tmp_path / "weights", raw, tmp_path / "s.csv")
    rows = pd.read_csv(tmp_path / "s.csv", dtype=str, keep_default_na=False)
    assert len(rows) == 16
    red, green = (
        np.array([parse_rle(rle, (52, 64)).to_mask() for rle in rows.loc[rows["class"] == name, "rle"]])
        for name in NAMES[:2]
    )
    if activation == "softmax":
        assert not (red & green).any(), "no two classes of a softmax are above a half"
    scores = json.loads((run / "fold0" / "run.json").read_text())["dice_by_id"]
    assert all(0 <= score <= 1 for score in scores.values())


def test_a_further_dataset_whose_classes_stand_in_another_order_is_refused(tmp_path):
    main_dataset = build(class_folder(tmp_path / "first", NAMES, count=4), tmp_path / "main")
    further = build(class_folder(tmp_path / "second", NAMES[::-1], count=4), tmp_path / "further")
    experiment = small_experiment(
        main_dataset, model={"classes": 3}, data={"sources": (SourceConfig(dataset=str(further), duplicates="drop"),)}
    )
    with pytest.raises(InputError, match="blue, green, red and those of the main dataset red, green, blue"):
        load_sources(experiment)


def test_a_network_of_other_classes_than_the_folder_is_refused_in_words(tmp_path, capsys):
    raw = class_folder(tmp_path / "raw", NAMES, count=4)
    dataset = build(raw, tmp_path / "dataset")
    (tmp_path / "E.toml").write_text(to_toml(small_experiment(dataset)))
    assert main(["train", str(tmp_path / "E.toml"), "--runs", str(tmp_path / "runs")]) == 2
    assert "model.classes = 3" in capsys.readouterr().err
