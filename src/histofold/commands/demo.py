"""`histofold demo`: the whole chain, on synthetic slides made on the spot or on a competition's folder."""

from __future__ import annotations

import filecmp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from histofold.commands.kernel import KERNELS, write_kernel
from histofold.commands.options import parse_options
from histofold.commands.predict import predict_folder
from histofold.commands.train import train_experiment
from histofold.competitions.base import Competition
from histofold.competitions.registry import detect_competition, get_competition
from histofold.competitions.scores import runs_dice
from histofold.core.faults import InputError
from histofold.core.rle.runs import parse_rle
from histofold.data.audit import audit_folder
from histofold.data.build import build_dataset
from histofold.data.tiles.masks import masked_fraction
from histofold.imaging.errors import ImageError
from histofold.imaging.slide import open_slide
from histofold.kaggle.package import package_runs
from histofold.models.build import build_model
from histofold.predict.devices import best_device, best_precision
from histofold.report.dataset import write_build_report
from histofold.report.evaluation import write_evaluation_report
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, OptimConfig, PredictConfig, TrainConfig
from histofold.schema.preprocessing import Preprocessing, has_pixel_size
from histofold.schema.sample import Sample
from histofold.synth.hubmap_2022.folder import make_hubmap_2022
from histofold.trust.evaluate import evaluate_run

NETWORK_SIDE = 300  # long side of a typical image at the network's scale, in pixels
SYNTHETIC_STEPS = 250
REAL_STEPS = 600
DEMO_FOLDS = 3
EVALUATION_SHARE = 0.25  # validation, out-of-fold and prediction, as a share of training


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Folds, tiles, training, out-of-fold score, weights, kernel, submission and report in one go."""

    data: Path | None = None
    """A competition folder; synthetic slides are made where it is not given."""
    out: Path = Path("demo")
    """Where to write; what is there already is gone on with."""
    competition: str = ""
    """Name of the adapter; detected where it is not given."""
    steps: int | None = None
    """Optimisation steps of each fold, instead of the usual number."""
    folds: int = DEMO_FOLDS
    """Number of folds."""
    seed: int = 0
    """Seed of the synthetic slides, the folds and the training."""


def run(arguments: list[str]) -> int:
    """The verb."""
    options = parse_options(DemoOptions, "demo", arguments)
    if options.folds < 2 or options.seed < 0 or (options.steps is not None and options.steps < 1):
        raise InputError("--folds must be at least 2, --steps at least 1, --seed not negative")
    started = time.monotonic()
    root, truth = options.data, None
    if root is None:
        root, truth = options.out / "competition", options.out / "hidden_truth.csv"
        if not truth.is_file():
            shutil.rmtree(root, ignore_errors=True)
            make_hubmap_2022(root, seed=options.seed, truth_path=truth)
    competition = get_competition(options.competition) if options.competition else detect_competition(root)
    samples, faults = audit_folder(competition, root)
    if faults:
        raise InputError(faults)
    experiment = demo_experiment(competition, samples, options, synthetic=truth is not None)
    _print_forecast(experiment, options.folds)
    built = build_dataset(root, competition, experiment, options.out / "dataset", None, os.cpu_count() or 1)
    write_build_report(built)
    train_experiment(experiment, "demo", options.out / "runs", fold=None, resume=True, limit=None)
    run_folder = options.out / "runs" / "demo"
    evaluation = evaluate_run(run_folder)
    write_evaluation_report(evaluation)
    package_runs([run_folder], options.out / "weights", slug="histofold-demo")
    submission = options.out / "submission.csv"
    predict_folder(options.out / "weights", root, submission)
    if competition.name in KERNELS:
        _rehearse_kernel(competition.name, root, options.out, submission)
    report = options.out / "report.html"
    shutil.copyfile(run_folder / "report.html", report)
    print(f"the whole chain took {(time.monotonic() - started) / 60:.1f} minutes")
    if truth is not None:
        print(f"hidden test Dice {hidden_dice(submission, truth):.4f}")
    print(f"out-of-fold Dice {evaluation.summary['dice']:.4f}")
    print(f"submission: {submission} report: {report}")
    return 0


def demo_experiment(
    competition: Competition, samples: list[Sample], options: DemoOptions, synthetic: bool
) -> Experiment:
    """A small experiment for small machines: the scale follows the images, the work is counted in steps."""
    fractions = [masked_fraction(competition.target(sample)) for sample in samples]
    usual = SYNTHETIC_STEPS if synthetic else REAL_STEPS
    steps = usual if options.steps is None else options.steps
    return Experiment(
        data=DataConfig(dataset=str(options.out / "dataset")),
        preprocessing=demo_preprocessing(samples),
        tiles=TilesConfig(
            size=224, stride=112, area_bins=quartile_bins(fractions), folds=options.folds, seed=options.seed
        ),
        # The synthetic hidden test holds other stains than the training slides; a real folder's may hold one alone.
        augment=AugmentConfig(crop=192, stain_transfer=0.4, grey=0.3) if synthetic else AugmentConfig(crop=192),
        model=ModelConfig(encoder="resnet18", decoder_channels=(128, 64, 32, 24, 16), classes=len(competition.classes)),
        optim=OptimConfig(lr=2e-3, ema=0.98),
        train=TrainConfig(
            seed=options.seed,
            steps=steps,
            validate_every=max(1, steps // 4),
            validate_images=8,
            save_every=50,
        ),
        predict=PredictConfig(tile=320, halo=32),
    )


def quartile_bins(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Area bins at the quartiles of the images' mask fractions, so that none of the balanced bins is nearly empty."""
    low, middle, high = (round(float(q), 3) for q in np.quantile(fractions, [0.25, 0.5, 0.75]))
    return (low, middle, high) if 0 < low < middle < high < 1 else TilesConfig().area_bins


def demo_preprocessing(samples: list[Sample]) -> Preprocessing:
    """A physical scale at which a typical image has `NETWORK_SIDE` pixels; whole images where sizes are unknown."""
    sides_um = []
    for sample in samples:
        if not has_pixel_size(sample.pixel_size_um):
            return Preprocessing(scale_mode="whole", whole_size=320)
        shape_hw = sample.shape_hw
        if shape_hw is None:
            try:
                with open_slide(sample.image_path) as slide:
                    shape_hw = slide.shape_hw
            except ImageError:
                continue
        sides_um.append(max(shape_hw) * float(sample.pixel_size_um or 0))
    if not sides_um:
        raise InputError("no image of the folder can be read: run `histofold check dataset`")
    return Preprocessing(target_pixel_size_um=round(statistics.median(sides_um) / NETWORK_SIDE, 2))


def _print_forecast(experiment: Experiment, folds: int) -> None:
    """Time a few bare steps and say how long the whole will take; the number of steps does not depend on it."""
    device = best_device()
    model = build_model(experiment.model.architecture, experiment.model.arguments()).to(device)
    model = model.to(memory_format=torch.channels_last)
    side = experiment.augment.crop
    images_NCHW = torch.rand(experiment.train.batch, 3, side, side, device=device)
    times = []
    for _ in range(4):
        started = time.monotonic()
        with torch.autocast(device.type, dtype=best_precision(device)):
            loss = model(images_NCHW).float().square().mean()
        loss.backward()
        times.append(time.monotonic() - started)
    minutes = statistics.median(times[1:]) * experiment.train.steps * folds * (1 + EVALUATION_SHARE) / 60
    spec = experiment.preprocessing
    whole = f"on whole images of {spec.whole_size} pixels"
    scale = whole if spec.scale_mode == "whole" else f"at {spec.target_pixel_size_um} um per pixel"
    steps = experiment.train.steps
    print(f"{folds} folds of {steps} steps {scale}: about {minutes:.0f} minutes on this machine", flush=True)


def _rehearse_kernel(name: str, root: Path, out: Path, submission: Path) -> None:
    """Write the kernel, run it alone as Kaggle would, and hold its file against ours."""
    path = write_kernel(name, out / "kaggle_kernels", notebook=False, dataset="your-kaggle-name/histofold-demo")
    with tempfile.TemporaryDirectory() as folder:
        kaggle = Path(folder)
        (kaggle / "input").mkdir()
        (kaggle / "working").mkdir()
        (kaggle / "input" / "competition").symlink_to(root.resolve(), target_is_directory=True)
        (kaggle / "input" / "weights").symlink_to((out / "weights").resolve(), target_is_directory=True)
        environment = {**os.environ, "HISTOFOLD_KAGGLE_ROOT": str(kaggle)}
        done = subprocess.run(
            [sys.executable, "-I", str(path.resolve())],
            cwd=kaggle,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        (out / "kernel.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode:
            raise RuntimeError(f"the kernel failed, see {out / 'kernel.log'}")
        same = filecmp.cmp(kaggle / "working" / "submission.csv", submission, shallow=False)
    if not same:
        raise RuntimeError(f"the kernel's submission differs from histofold predict's, see {out / 'kernel.log'}")
    print(f"kernel: {path} run alone gives the same bytes as histofold predict")


def hidden_dice(submission: Path, truth: Path) -> float:
    """Mean Dice of a submission on the hidden truth of the synthetic competition."""
    rows = pd.read_csv(submission, dtype=str, keep_default_na=False).set_index("id")["rle"]
    scores = []
    for row in pd.read_csv(truth, dtype=str, keep_default_na=False).to_dict("records"):
        shape_hw = int(row["img_height"]), int(row["img_width"])
        scores.append(runs_dice(parse_rle(rows[row["id"]], shape_hw), parse_rle(row["rle"], shape_hw)))
    return float(np.mean(scores))
