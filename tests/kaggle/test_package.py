"""Runs become one folder of weights: their shares, the files that name them, and what does not belong together."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from histofold.core.faults import InputError
from histofold.kaggle.package import package_runs
from histofold.schema.manifest import Manifest, load_manifest
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import RunRecord, write_record


def make_run(folder, folds=(0, 1), limit=None, **manifest):
    """A trained run whose networks need no wheel; it was not evaluated."""
    settings = {"competition": "hubmap_2022", "preprocessing": Preprocessing(), "skip_blank": False, **manifest}
    for fold in folds:
        home = folder / f"fold{fold}"
        home.mkdir(parents=True)
        save_file({f"{folder.name} {fold}": np.zeros(2, np.float32)}, home / "model.safetensors")
        record = RunRecord(
            digest="0",
            fold=fold,
            limit=limit,
            competition="hubmap_2022",
            steps=1,
            seconds=1.0,
            dice=0.5,
            best_dice_optimistic=0.5,
            best_step=1,
            dice_by_id={},
            trained_on={},
            manifest=Manifest(**settings),
            architecture="segformer",
            arguments={},
        )
        write_record(home, record)
    return folder


def test_shares_are_divided_among_folds_wherever_they_are_given(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", folds=(3,))]
    joint = tmp_path / "both.toml"
    joint.write_text(f"runs = {[str(run) for run in runs]}\nshares = [2.0, 1.0]\n".replace("'", '"'))
    for given, shares in ((runs, (2.0, 1.0)), ([joint], ())):
        manifest = package_runs(given, tmp_path / "weights", shares=shares)
        assert [(member.file, member.fold, member.weight) for member in manifest.members] == [
            ("a_fold0.safetensors", 0, 1.0),
            ("a_fold1.safetensors", 1, 1.0),
            ("b_fold3.safetensors", 3, 1.0),
        ]
        assert manifest.thresholds == {"default": 0.5}, "neither was evaluated"
    assert {member.weight for member in package_runs(runs, tmp_path / "weights").members} == {1.0}
    assert load_manifest(tmp_path / "weights").members
    proposed = package_runs(runs, tmp_path / "weights", batch=lambda manifest, folder: 7)
    assert proposed.batch == load_manifest(tmp_path / "weights").batch == 7


def test_each_member_carries_its_own_preprocessing(tmp_path):
    fine = Preprocessing(target_pixel_size_um=0.4)
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", preprocessing=fine)]
    members = package_runs(runs, tmp_path / "weights").members
    assert [member.preprocessing for member in members] == [None, None, fine, fine]


def test_what_does_not_belong_together_is_refused_before_anything_is_written(tmp_path):
    good = make_run(tmp_path / "good")
    same = make_run(tmp_path / "same", folds=(2,))
    shutil.copyfile(good / "fold0" / "model.safetensors", same / "fold2" / "model.safetensors")
    for runs, words in (
        ([], "no run given"),
        ([Path("nowhere")], "no finished fold"),
        ([make_run(tmp_path / "short", limit=3)], "overfitting check"),
        ([good, make_run(tmp_path / "views", views=("identity", "hflip"))], "views is"),
        ([make_run(tmp_path / "blank", skip_blank=True)], "skips blank tiles"),
        ([good, same], "the same checkpoint"),
    ):
        with pytest.raises(InputError, match=words):
            package_runs(runs, tmp_path / "weights")
    with pytest.raises(InputError, match="1 shares for 2 runs"):
        package_runs([good, same], tmp_path / "weights", shares=(1.0,))
    with pytest.raises(InputError, match="holds a run"):
        package_runs([good], good)
    assert not (tmp_path / "weights").exists()
