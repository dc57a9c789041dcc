"""Runs become one folder of weights: their shares, the files that name them, and what does not belong together."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.core.metrics.calibration import scaled_score
from histofold.kaggle.package import package_runs
from histofold.kaggle.weights_folder import check_weights_folder
from histofold.schema.manifest import Manifest, file_sha256, load_manifest, manifest_json
from histofold.schema.objects import ObjectConfig
from histofold.schema.parse import plain
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import RunRecord, read_record, write_record
from histofold.trust.oof import evaluated_folds


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


def test_a_folder_of_other_files_is_no_target_unless_that_is_said(tmp_path, capsys):
    run, out = make_run(tmp_path / "a"), tmp_path / "photos"
    out.mkdir()
    (out / "README.md").write_text("only this")
    arguments = ["package", str(run), "--out", str(out)]
    assert main(arguments) == 0
    assert main(arguments) == 0, "a package gives way to the next"
    other = tmp_path / "other"
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"mine")
    assert main(["package", str(run), "--out", str(other)]) == 2
    assert "no weights of ours but other files: holiday.jpg; give a folder of its own" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["holiday.jpg"]
    assert main(["package", str(run), "--out", str(other), "--overwrite"]) == 0
    assert (other / "holiday.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("size", [0, 30, 70])
def test_weights_that_were_cut_short_are_neither_packaged_nor_checked_as_good(tmp_path, size, capsys):
    run, out = make_run(tmp_path / "a"), tmp_path / "weights"
    package_runs([run], out)
    for path in (run / "fold1" / "model.safetensors", out / "a_fold1.safetensors"):
        path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=rf"a_fold1.safetensors: .*{size} (bytes|of)"):
        package_runs([run], tmp_path / "other")
    assert not (tmp_path / "other").exists()
    manifest = load_manifest_text(out)
    manifest["members"][1]["sha256"] = file_sha256(out / "a_fold1.safetensors")  # packaged before it was looked at
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert main(["check", "weights", str(out)]) == 2
    assert "a_fold1.safetensors" in capsys.readouterr().err


def load_manifest_text(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_a_full_disk_leaves_the_earlier_package_whole(tmp_path, monkeypatch):
    out = tmp_path / "weights"
    package_runs([make_run(tmp_path / "a")], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written = []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        package_runs([make_run(tmp_path / "b")], out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("name", ["run.json", "summary.json", "thresholds.json", "oof.csv"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_records_that_were_cut_short_are_refused_by_name(tmp_path, name, share):
    run = make_run(tmp_path / "a")
    (run / "thresholds.json").write_text(json.dumps({"default": 0.45}))
    (run / "oof.csv").write_text("id,fold,organ,source,dice\nx,0,,,0.5\ny,1,,,0.7\n")
    summary = {
        "weights_sha256": {f"fold{k}": file_sha256(run / f"fold{k}" / "model.safetensors") for k in (0, 1)},
        "settings": {f"fold{k}": plain(read_record(run / f"fold{k}").manifest) for k in (0, 1)},
        "images": 2,
    }
    (run / "summary.json").write_text(json.dumps(summary))
    members = package_runs([run], tmp_path / "weights").members
    assert [member.oof_score for member in members] == [0.5, 0.7]
    path = run / "fold0" / name if name == "run.json" else run / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=rf"{name}: .+; .*(evaluate|copy the run again|download it again)"):
        package_runs([run], tmp_path / "weights")


def object_run(folder, chosen, own=None):
    """A run of detectors; evaluated, where something was chosen."""
    objects = own or ObjectConfig(min_score=0.05, grow_px=1.0)
    run = make_run(folder, competition="vasculature_2023", classes=("blood_vessel",), objects=objects)
    if chosen is not None:
        (run / "thresholds.json").write_text(json.dumps({"default": chosen.get("min_score", 0.05)}))
        (run / "objects.json").write_text(json.dumps(chosen))
        (run / "oof.csv").write_text("id,fold,source,ap\nx,0,dataset_1,0.5\ny,1,dataset_1,\n")
        summary = {
            "weights_sha256": {f"fold{k}": file_sha256(run / f"fold{k}" / "model.safetensors") for k in (0, 1)},
            "settings": {f"fold{k}": plain(read_record(run / f"fold{k}").manifest) for k in (0, 1)},
            "images": 2,
            "folds": {"0": {"score": 0.61}, "1": {"score": 0.63}},
        }
        (run / "summary.json").write_text(json.dumps(summary))
    return run


def evaluated_run(folder, chosen, **manifest):
    """A run of masks that was evaluated as it is, where these settings of cleaning were chosen."""
    run = make_run(folder, **manifest)
    (run / "thresholds.json").write_text(json.dumps({"default": 0.45}))
    (run / "cleaning.json").write_text(json.dumps(chosen))
    (run / "oof.csv").write_text("id,fold,organ,source,dice\nx,0,,,0.5\ny,1,,,0.7\n")
    summary = {
        "weights_sha256": {f"fold{k}": file_sha256(run / f"fold{k}" / "model.safetensors") for k in (0, 1)},
        "settings": {f"fold{k}": plain(read_record(run / f"fold{k}").manifest) for k in (0, 1)},
        "images": 2,
    }
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_masks_are_packaged_with_the_cleaning_that_all_runs_chose(tmp_path, caplog):
    chosen = {"max_hole_um2": 300.0, "min_area_um2": 100.0}
    first = evaluated_run(tmp_path / "a", chosen, max_hole_um2=7.0)
    manifest = package_runs([first], tmp_path / "weights")
    assert (manifest.max_hole_um2, manifest.min_area_um2, manifest.seed_threshold) == (300, 100, 0)
    assert [fold.manifest.max_hole_um2 for fold in evaluated_folds(first)] == [300, 300]
    alike = evaluated_run(tmp_path / "b", chosen, max_hole_um2=7.0)
    assert package_runs([first, alike], tmp_path / "weights").min_area_um2 == 100
    assert not caplog.records
    other = evaluated_run(tmp_path / "c", {"min_area_um2": 300.0}, max_hole_um2=7.0)
    joint = package_runs([first, other], tmp_path / "weights")
    assert (joint.max_hole_um2, joint.min_area_um2) == (7, 0)
    assert "the runs chose different settings of cleaning" in caplog.text
    (first / "cleaning.json").write_text('{"min_area_um2": 1')
    with pytest.raises(InputError, match=r"cleaning.json: .*evaluate"):
        package_runs([first], tmp_path / "weights")
    (first / "fold0" / "model.safetensors").write_bytes((other / "fold1" / "model.safetensors").read_bytes())
    assert package_runs([first], tmp_path / "weights").max_hole_um2 == 7, "it was chosen for other weights"


def test_objects_are_packaged_with_what_was_chosen_of_them(tmp_path):
    evaluated = object_run(tmp_path / "a", {"grow_px": 3.0, "min_area_px": 41, "min_score": 0.01})
    manifest = package_runs([evaluated], tmp_path / "weights")
    assert manifest.objects == ObjectConfig(min_score=0.01, grow_px=3.0, min_area_px=41)
    assert manifest.thresholds == {"default": 0.01}
    assert [member.oof_score for member in manifest.members] == [0.61, 0.63]
    assert not list((tmp_path / "weights").glob("*.whl"))
    assert check_weights_folder(tmp_path / "weights")[0] == manifest
    members = [replace(member, architecture="yolo") for member in manifest.members]
    (tmp_path / "weights" / "manifest.json").write_text(manifest_json(replace(manifest, members=tuple(members))))
    assert any("ultralytics" in line and "AGPL-3.0" in line for line in check_weights_folder(tmp_path / "weights")[1])

    both = package_runs([evaluated, object_run(tmp_path / "b", None)], tmp_path / "weights")
    assert (both.objects.grow_px, both.objects.min_area_px) == (2, 20), "a run's own where none was chosen"
    assert both.objects.min_score == both.thresholds["default"] == pytest.approx(0.03)


def test_detectors_of_several_runs_are_scaled_to_be_ranked_together(tmp_path, caplog):
    runs = [object_run(tmp_path / name, {"min_score": 0.02}) for name in "ab"]
    lines = {"a": [0.5, 1.0], "b": [2.0, -1.0]}
    for run in runs:
        for fold in (0, 1):
            detector = {"architecture": "maskrcnn", "arguments": {"encoder": "resnet18"}}
            write_record(run / f"fold{fold}", replace(read_record(run / f"fold{fold}"), **detector))
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"calibration": {"score_line": lines[run.name]}}))
    alone = package_runs(runs[:1], tmp_path / "alone")
    assert alone.members[0].arguments == {"encoder": "resnet18"}, "a line changes no ranking of one run"
    both = package_runs(runs, tmp_path / "weights")
    assert [member.arguments["score_line"] for member in both.members] == [lines["a"]] * 2 + [lines["b"]] * 2
    wanted = (0.02 + scaled_score(0.02, lines["b"])) / 2  # the first's would rise, and drop what few passes find
    assert both.objects.min_score == both.thresholds["default"] == pytest.approx(wanted)
    assert not caplog.records
    (runs[1] / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InputError, match=r"calibration.*evaluate"):
        package_runs(runs, tmp_path / "weights")
    (runs[1] / "summary.json").unlink()
    assert "score_line" not in package_runs(runs, tmp_path / "weights").members[0].arguments
    assert "their scores are ranked as they are" in caplog.text


def test_other_settings_of_objects_do_not_go_together_and_masks_are_no_objects(tmp_path):
    runs = [object_run(tmp_path / "a", {}), object_run(tmp_path / "b", {}, ObjectConfig(fusion="nms"))]
    with pytest.raises(InputError, match="objects is"):
        package_runs(runs, tmp_path / "weights")
    (runs[0] / "objects.json").write_text('{"nms_iou": 0.5}')
    with pytest.raises(InputError, match="grow_px, min_area_px, min_score"):
        package_runs(runs[:1], tmp_path / "weights")
    package_runs([make_run(tmp_path / "masks", competition="vasculature_2023")], tmp_path / "weights")
    with pytest.raises(InputError, match="asks for objects, and the manifest has no settings of them"):
        check_weights_folder(tmp_path / "weights")
