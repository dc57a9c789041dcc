"""A training run on Kaggle, for those without a GPU: a dataset of wheels and settings, and a short notebook."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import requires
from pathlib import Path

from histofold.core.faults import Fault, InputError
from histofold.kaggle.bundle.kernels import notebook_json
from histofold.kaggle.metadata.dataset import DATASET_METADATA_NAME, dataset_metadata, wheels_notice
from histofold.kaggle.metadata.kernel import KERNEL_METADATA_NAME, kernel_metadata
from histofold.kaggle.metadata.report import PLACEHOLDER_OWNER
from histofold.kaggle.wheel import build_own_wheel, build_wheel
from histofold.schema.experiment import Experiment
from histofold.schema.files import write_atomically
from histofold.schema.parse import load_toml, to_toml, write_json

SETTINGS_NAME = "training.toml"
FOLDS_NAME = "folds.csv"
START_NAME = "start.safetensors"
WHEELS = ("segmentation-models-pytorch", "tyro")
"""What Kaggle's image lacks; what they need in turn, and it may lack too, comes with them."""
_IN_IMAGE = ("torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "tqdm", "huggingface-hub")
_FILE_PREFIX = "file:"

UNPACK_CELL = """\
# Everything is found by its content: where Kaggle mounts a dataset has changed more than once.
import os, subprocess, sys, tempfile, zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

INPUT, WORKING = Path("/kaggle/input"), Path("/kaggle/working")
here = next(INPUT.rglob("training.toml")).parent
data = next(INPUT.rglob("sample_submission.csv")).parent
scratch = Path(tempfile.mkdtemp())
for wheel in sorted(here.glob("*.whl")):
    zipfile.ZipFile(wheel).extractall(scratch / "site")"""
TRAIN_CELL = """\
def histofold(*arguments, **variables):
    environment = os.environ | {"PYTHONPATH": str(scratch / "site")} | variables
    command = [sys.executable, "-m", "histofold.commands.main", *map(str, arguments)]
    subprocess.run(command, env=environment, cwd=scratch, check=True)

folds = ["--folds", here / "folds.csv"] if (here / "folds.csv").is_file() else []
start = ["--model.NAME", f"file:{here / 'start.safetensors'}"] if (here / "start.safetensors").is_file() else []
histofold("build", "--data", data, "--experiment", here / "training.toml", "--out", scratch / "dataset", *folds)"""
FOLDS_CELL = """\
import pandas as pd, torch

gpus = max(torch.cuda.device_count(), 1)
known = sorted(set(pd.read_csv(scratch / "dataset" / "folds.csv")["fold"]) - {-1})

def train(gpu):  # one fold after the other on each GPU
    for fold in known[gpu::gpus]:
        settings = ["--data.dataset", scratch / "dataset", "--runs", WORKING / "runs", *start]
        histofold("train", here / "training.toml", "--fold", fold, "--resume", *settings, CUDA_VISIBLE_DEVICES=str(gpu))

with ThreadPoolExecutor(gpus) as pool:
    list(pool.map(train, range(gpus)))"""
PACKAGE_CELL = """\
run = WORKING / "runs" / "training"
histofold("evaluate", run)
histofold("package", run, "--out", WORKING / "weights")
for state in run.rglob("state_*.pt"):  # for going on with training; nobody wants to fetch them
    state.unlink()"""
"""What is left in /kaggle/working: the run with its report, and the weights."""


def write_training(
    competition: str, slug: str, experiment_path: Path, out: Path, folds: Path | None = None
) -> tuple[Path, Path]:
    """Write the dataset and the notebook of a training run; what an earlier call put there is replaced.

    The folds are made on Kaggle where no folds.csv is given.

    Returns:
        The folder of the dataset and that of the notebook.

    Raises:
        InputError: With all faults: a missing file, an experiment of several datasets, or one that starts from a run.
    """
    experiment = load_toml(Experiment, experiment_path)
    faults = _training_faults(experiment, experiment_path, folds)
    if faults:
        raise InputError(faults)
    dataset, notebook = out / "dataset", out / "notebook"
    for folder in (dataset, notebook):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    setting = _write_start(experiment, dataset)
    model = replace(experiment.model, encoder_weights="none", init="")
    write_atomically(dataset / SETTINGS_NAME, to_toml(replace(experiment, model=model)))
    if folds is not None:
        shutil.copyfile(folds, dataset / FOLDS_NAME)
    wheels = [build_own_wheel(dataset), *(build_wheel(name, dataset) for name in _with_needs(WHEELS))]
    name = f"histofold-training-{competition.replace('_', '-')}"
    data = dataset_metadata(name, name.replace("-", " "), "other", description=wheels_notice(wheels))
    write_json(dataset / DATASET_METADATA_NAME, data)
    write_atomically(notebook / "train.ipynb", notebook_text(setting))
    kernel = kernel_metadata(slug, f"{name}-run", "train.ipynb", [f"{PLACEHOLDER_OWNER}/{name}"])
    write_json(notebook / KERNEL_METADATA_NAME, kernel)
    return dataset, notebook


def notebook_text(setting: str = "init") -> str:
    """The notebook as JSON (nbformat 4.5); the setting is the key of `model` that takes the file of initial weights."""
    heading = "# Training\n\nTrains every fold, one on each GPU, and leaves `weights/` and the report as its output."
    texts = [
        UNPACK_CELL,
        TRAIN_CELL.replace("model.NAME", f"model.{setting.replace('_', '-')}"),
        FOLDS_CELL,
        PACKAGE_CELL,
    ]
    return notebook_json([("markdown", heading), *(("code", text) for text in texts)])


def _training_faults(experiment: Experiment, path: Path, folds: Path | None) -> list[Fault]:
    """What cannot travel."""
    faults = []
    if experiment.data.sources:
        rule = "several datasets, and the notebook sees the competition's alone"
        faults.append(Fault("data.sources", str(path), rule, "leave them out"))
    if experiment.model.init and not experiment.model.init.startswith(_FILE_PREFIX):
        rule = f"starts from {experiment.model.init}, which is not on Kaggle"
        faults.append(Fault("model.init", str(path), rule, f"name one file: {_FILE_PREFIX}PATH"))
    if experiment.model.init and not Path(experiment.model.init.removeprefix(_FILE_PREFIX)).exists():
        faults.append(Fault("model.init", str(path), f"no such file: {experiment.model.init}", "check the path"))
    if experiment.train.steps == 0:
        rule = f"{experiment.model.architecture} is not trained"
        faults.append(Fault("model.architecture", str(path), rule, "score it here, with `histofold evaluate`"))
    if experiment.model.architecture == "yolo":
        rule = "needs ultralytics, under the AGPL-3.0, which the notebook does not bring"
        faults.append(Fault("model.architecture", str(path), rule, "train it here, or take maskrcnn"))
    if folds is not None and not folds.is_file():
        faults.append(Fault("folds", str(folds), "no such file", "check the path"))
    return faults


def _write_start(experiment: Experiment, folder: Path) -> str:
    """Write the weights that training starts from, fetched here, since Kaggle's machine has no internet.

    Returns:
        The key of `model` that takes their file; nothing is written where training starts from random weights.
    """
    model = experiment.model
    if model.init:
        shutil.copyfile(model.init.removeprefix(_FILE_PREFIX), folder / START_NAME)
        return "init"
    if model.encoder_weights != "none":
        import torch
        from safetensors.torch import save_file

        from histofold.models.instances.build import build_network
        from histofold.models.weights import load_encoder_weights

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # all but the encoder is random: the same command must give the same dataset
            network = build_network(model.architecture, model.arguments(experiment.preprocessing.slices))
        load_encoder_weights(network, model)
        state = {name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, folder / START_NAME)
    return "encoder_weights"


def _with_needs(names: Sequence[str]) -> list[str]:
    """The distributions, and those that they need in turn and Kaggle's image is not known to have."""
    found: list[str] = []
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in found or name in _IN_IMAGE:
            continue
        found.append(name)
        needs = [text for text in requires(name) or [] if ";" not in text]
        waiting += [_bare_name(text) for text in needs]
    return found


def _bare_name(requirement: str) -> str:
    """The name in a requirement, in the form that package indexes use."""
    bare = requirement.split(" ")[0]
    for sign in "<>=!~[(":
        bare = bare.split(sign)[0]
    return bare.strip().lower().replace("_", "-")
