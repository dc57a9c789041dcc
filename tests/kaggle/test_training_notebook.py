"""The training notebook: what travels, what is refused, and that its cells leave a package."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

import histofold
from histofold.commands.main import main
from histofold.core.faults import InputError
from histofold.kaggle.metadata.dataset import check_dataset_metadata
from histofold.kaggle.metadata.kernel import check_kernel_metadata
from histofold.kaggle.metadata.report import with_owner
from histofold.kaggle.submit.explain import check_output
from histofold.kaggle.training_notebook import notebook_text, write_training
from histofold.kaggle.wheel import build_own_wheel
from histofold.schema.dataset import DataConfig, SourceConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, PredictConfig, TrainConfig
from histofold.schema.manifest import load_manifest
from histofold.schema.parse import load_toml, to_toml
from histofold.schema.preprocessing import Preprocessing
from small_datasets import SMALL_UNET
from small_submission import make_weights

SLUG = "hubmap-organ-segmentation"
TINY = Experiment(
    preprocessing=Preprocessing(target_pixel_size_um=4.0),
    tiles=TilesConfig(size=96, stride=96, holdout=2),
    augment=AugmentConfig(crop=64),
    model=ModelConfig(**SMALL_UNET),
    train=TrainConfig(steps=2, batch=2, validate_every=2, validate_images=1, save_every=2, workers=0),
    predict=PredictConfig(tile=128, halo=16, views=("identity",)),
)


def write_experiment(folder, experiment):
    path = folder / "tiny.toml"
    path.write_text(to_toml(experiment))
    return path


def test_our_own_wheel_holds_this_very_package_and_has_the_same_bytes_twice(tmp_path):
    path = build_own_wheel(tmp_path / "a")
    assert path.name == f"histofold-{histofold.__version__}-py3-none-any.whl"
    assert build_own_wheel(tmp_path / "b").read_bytes() == path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert {"histofold/__init__.py", "histofold/commands/main.py", "histofold/report/page.html.j2"} <= set(names)
        assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]
        assert len(archive.read(f"histofold-{histofold.__version__}.dist-info/RECORD").splitlines()) == len(names)


def test_both_folders_pass_the_checks_and_hold_what_kaggle_lacks(tmp_path):
    (tmp_path / "folds.csv").write_text("id,group,stratum,fold\n")
    path = write_experiment(tmp_path, TINY)
    dataset, notebook = write_training("hubmap_2022", SLUG, path, tmp_path / "out", tmp_path / "folds.csv")
    data = json.loads((dataset / "dataset-metadata.json").read_text())
    kernel = json.loads((notebook / "kernel-metadata.json").read_text())
    assert check_dataset_metadata(with_owner(data, "ada"), dataset) == ([], [])
    assert check_kernel_metadata(with_owner(kernel, "ada"), notebook) == ([], [])
    assert (kernel["dataset_sources"], kernel["competition_sources"]) == ([data["id"]], [SLUG])
    assert "segmentation_models_pytorch" in data["description"], "whose packages these are is told"
    wheels = {name.name.split("-")[0] for name in dataset.glob("*.whl")}
    assert {"histofold", "segmentation_models_pytorch", "tyro", "typeguard", "docstring_parser"} <= wheels
    assert "torch" not in wheels
    assert load_toml(Experiment, dataset / "training.toml") == TINY
    assert (dataset / "folds.csv").is_file()
    before = {name: name.read_bytes() for name in sorted(tmp_path.rglob("out/*/*"))}
    write_training("hubmap_2022", SLUG, path, tmp_path / "out", tmp_path / "folds.csv")
    assert {name: name.read_bytes() for name in sorted(tmp_path.rglob("out/*/*"))} == before


def test_what_cannot_travel_is_refused_all_at_once(tmp_path):
    data = DataConfig(sources=(SourceConfig(dataset="more"),))
    experiment = replace(TINY, data=data, model=ModelConfig(architecture="yolo", init="runs/other"))
    path = write_experiment(tmp_path, experiment)
    with pytest.raises(InputError) as caught:
        write_training("hubmap_2022", SLUG, path, tmp_path / "out", tmp_path / "nowhere.csv")
    assert {fault.id for fault in caught.value.faults} == {"data.sources", "model.init", "model.architecture", "folds"}
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_training_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path, TINY)
    arguments = ["submit", "hubmap_2022", "--training", "tiny.toml", "--dry-run", "--owner", "ada"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "kaggle kernels push" in told
    assert "ada/histofold-training-hubmap-2022-run" in told
    assert "competitions submit" not in told, "a training run is not submitted"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_the_weights_that_training_starts_from_are_the_same_each_time(tmp_path):
    """Else the same command would be another request, and train from the start instead of going on."""
    from safetensors.torch import save_file

    from histofold.models.build import build_model

    save_file(build_model("unet", TINY.model.arguments()).state_dict(), tmp_path / "pretrained.safetensors")
    model = replace(TINY.model, encoder_weights=f"file:{tmp_path / 'pretrained.safetensors'}")
    path = write_experiment(tmp_path, replace(TINY, model=model))
    written = [write_training("hubmap_2022", SLUG, path, tmp_path / name)[0] for name in ("a", "b")]
    first, second = ((folder / "start.safetensors").read_bytes() for folder in written)
    assert first == second


def test_weights_of_a_training_that_did_not_arrive_whole_are_refused(tmp_path):
    make_weights(tmp_path / "weights")
    check_output(tmp_path, "hubmap_2022", training=True)
    (tmp_path / "weights" / "a_fold0.safetensors").write_bytes(b"<html>503</html>")
    with pytest.raises(InputError, match="SHA-256"):
        check_output(tmp_path, "hubmap_2022", training=True)


FEWER_PROCESSES = """
import os, runpy, subprocess, sys
run_process = subprocess.run
def run(command, env, cwd, check):  # each process would load torch: only the last verb has one, as all have on Kaggle
    if command[3] == "package":
        return run_process(command, env=env, cwd=cwd, check=check)
    if env["PYTHONPATH"] != sys.path[0]:
        sys.path.insert(0, env["PYTHONPATH"])
    os.chdir(cwd)
    sys.argv = command[2:]
    try:
        runpy.run_module(command[2], run_name="__main__")
    except SystemExit as stop:
        assert not stop.code, command
subprocess.run = run
"""


@pytest.mark.slow
def test_the_cells_train_and_leave_a_package(tmp_path):
    """With the wheels alone on the path, on a competition and a dataset mounted somewhere."""
    from safetensors.torch import save_file

    from histofold.models.build import build_model
    from histofold.synth.hubmap_2022.folder import make_hubmap_2022

    network = build_model("unet", TINY.model.arguments())
    save_file(network.state_dict(), tmp_path / "pretrained.safetensors")
    model = replace(TINY.model, encoder_weights=f"file:{tmp_path / 'pretrained.safetensors'}")
    path = write_experiment(tmp_path, replace(TINY, model=model))
    dataset, _ = write_training("hubmap_2022", SLUG, path, tmp_path / "written")
    inputs, working = tmp_path / "input", tmp_path / "working"
    make_hubmap_2022(inputs / "competitions" / SLUG, num_train=4, num_test=1, max_side=300, seed=1)
    (inputs / "datasets").mkdir()
    dataset.rename(inputs / "datasets" / "whatever")
    (tmp_path / "pretrained.safetensors").unlink()

    cells = json.loads(notebook_text("encoder_weights"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = code.replace('"/kaggle/input"', repr(str(inputs))).replace('"/kaggle/working"', repr(str(working)))
    code = f"{FEWER_PROCESSES}{code}\nprint(sys.modules['histofold'].__file__)\nprint(scratch, flush=True)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = done.stdout.splitlines()
    assert told[-2].startswith(told[-1]), "histofold came out of its wheel"
    manifest = load_manifest(working / "weights")
    assert [member.fold for member in manifest.members] == [0]
    assert manifest.members[0].oof_score is not None
    assert (working / "runs" / "training" / "report.html").is_file()
    assert not list(working.rglob("state_*.pt"))
    assert main(["check", "weights", str(working / "weights")]) == 0
