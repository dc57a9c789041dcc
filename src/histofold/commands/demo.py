"""`histofold demo`: the whole chain, on synthetic slides made on the spot or on a competition's folder."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from histofold.commands import own_cores, parse_options
from histofold.core.faults import Fault, InputError
from histofold.schema.experiment import Experiment
from histofold.schema.kinds import require_kind

DEFAULT_COMPETITION = "hubmap_2022"
EVALUATION_SHARE = 0.25  # validation, out-of-fold and prediction, as a share of training


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Folds, tiles, training, out-of-fold score, weights, kernel, submission and report in one go."""

    data: Path | None = None
    """A competition folder; synthetic slides are made where it is not given."""
    out: Path = Path("demo")
    """Where to write; what is there already is gone on with."""
    competition: str = ""
    """Name of the adapter; without it, that of --data, or hubmap_2022."""
    steps: int | None = None
    """Optimisation steps of each fold, instead of the usual number."""
    folds: int = 3
    """Number of folds."""
    seed: int = 0
    """Seed of the synthetic slides, the folds and the training."""


def run(arguments: list[str]) -> int:
    """The verb: each step of the chain is a call of the layer that owns it."""
    options = parse_options(DemoOptions, "demo", arguments)
    if options.data is not None:
        require_kind(options.data, "data")
    if options.folds < 2 or options.seed < 0 or (options.steps is not None and options.steps < 1):
        raise InputError("--folds must be at least 2, --steps at least 1, --seed not negative")
    from histofold.competitions.registry import find_competition
    from histofold.data.build import build_dataset
    from histofold.data.check import audit_folder
    from histofold.data.demo import changed_since, demo_experiment
    from histofold.kaggle.package import package_runs
    from histofold.models.weights import with_encoder_moments
    from histofold.predict.submission.shards import predict_folder
    from histofold.report.dataset import write_build_report
    from histofold.report.evaluation import write_evaluation_report
    from histofold.report.slides import PICTURES_NAME
    from histofold.synth.competitions import hidden_score, submission_name
    from histofold.trust.evaluate import evaluate_run

    started = time.monotonic()
    root, truth = (options.data, None) if options.data is not None else _synthetic_folder(options)
    competition = find_competition(options.competition, root)
    samples, faults = audit_folder(competition, root)
    if faults:
        raise InputError(faults)
    experiment = demo_experiment(
        competition,
        samples,
        options.out / "dataset",
        steps=options.steps,
        folds=options.folds,
        seed=options.seed,
        synthetic=truth is not None,
    )
    preprocessing = with_encoder_moments(experiment.preprocessing, experiment.model)
    experiment = replace(experiment, preprocessing=preprocessing)  # as its runs have it
    _refuse_other_demo(experiment, options.out, changed_since(options.out / "dataset", competition, samples))
    _print_forecast(experiment)
    write_build_report(build_dataset(root, competition, experiment, options.out / "dataset", None, own_cores()))
    run_folder = _train(experiment, options.out / "runs")
    evaluation = evaluate_run(run_folder)
    write_evaluation_report(evaluation)
    package_runs([run_folder], options.out / "weights", slug="histofold-demo")
    submission = options.out / submission_name(competition.name)
    predict_folder(options.out / "weights", root, submission)
    _rehearse(competition.name, root, options.out, submission)
    report, pictures = options.out / "report.html", options.out / PICTURES_NAME
    shutil.rmtree(pictures, ignore_errors=True)
    shutil.copytree(run_folder / PICTURES_NAME, pictures)  # the page names them beside itself
    shutil.copyfile(run_folder / "report.html", report)
    print(f"the whole chain took {(time.monotonic() - started) / 60:.1f} minutes")
    print(f"look at the report: python -m webbrowser {report.resolve().as_uri()}")
    print(evaluation.choice_words())
    print(f"{evaluation.peer_words()} out-of-fold")
    if truth is not None:
        print(f"hidden test {evaluation.metric} {hidden_score(competition, root, submission, truth):.4f}")
    print(evaluation.score_words())
    print(f"submission: {submission} report: {report}")
    return 0


def _synthetic_folder(options: DemoOptions) -> tuple[Path, Path]:
    """A competition folder, made where it is not there yet, and the truth of its hidden test beside it."""
    from histofold.competitions.registry import detect_competition
    from histofold.synth.competitions import demo_folder

    name = options.competition or DEFAULT_COMPETITION
    folder = demo_folder(name)
    root, truth = options.out / "competition", options.out / folder.truth_name
    if not root.exists() and not truth.exists():
        begun = options.out / ".begun"
        shutil.rmtree(begun, ignore_errors=True)  # ours, of a demo that was interrupted
        folder.make(begun / root.name, seed=options.seed, truth_path=begun / truth.name)
        for made in (truth, root):
            (begun / made.name).rename(made)
        begun.rmdir()
    found = detect_competition(root).name
    if found != name or not truth.exists():
        rule = f"holds slides of {found}" if truth.exists() else "not made by the demo to its end"
        remedy = f"give another --out, or remove {root} and {truth}"
        raise InputError([Fault("competition", str(root), rule, remedy)])
    return root, truth


def _refuse_other_demo(experiment: Experiment, out: Path, changed: list[str]) -> None:
    """Refuse to go on with a demo of other data or settings, before anything of it is overwritten."""
    from histofold.data.demo import changed_tiles
    from histofold.train.checkpoint import changed_settings

    kept = sorted(out.glob("runs/demo/fold*/experiment.toml"))
    words = [f"its data has changed: {'; '.join(changed)}"] if changed else []
    settings = (
        changed_settings(kept[0], experiment.as_trained()) if kept else changed_tiles(out / "dataset", experiment)
    )
    if settings:
        words.append(f"its settings have changed: {'; '.join(settings)}")
    if words:
        remedy = f"undo the change, give another --out, or remove {out} to begin anew"
        raise InputError([Fault("demo", str(out), "; ".join(words), remedy)])


def _print_forecast(experiment: Experiment) -> None:
    """Time a few bare steps and say how long the whole will take; the number of steps does not depend on it."""
    from histofold.train.step import bare_step_seconds

    steps, folds, spec = experiment.train.steps, experiment.tiles.folds, experiment.preprocessing
    minutes = bare_step_seconds(experiment) * steps * folds * (1 + EVALUATION_SHARE) / 60
    whole = f"on whole images of {spec.whole_size} pixels"
    scale = whole if spec.scale_mode == "whole" else f"at {spec.target_pixel_size_um} um per pixel"
    print(f"{folds} folds of {steps} steps {scale}: about {minutes:.0f} minutes on this machine", flush=True)


def _train(experiment: Experiment, runs: Path) -> Path:
    """Train every fold, or go on with them; gives the run."""
    from histofold.report.graphs.run import draw_fold_curves
    from histofold.train.loop import train_experiment

    for setup, dice in train_experiment(experiment, "demo", runs, fold=None, resume=True, limit=None):
        draw_fold_curves(setup.folder)
        print(setup.score_words(dice))
    return runs / "demo"


def _rehearse(name: str, root: Path, out: Path, submission: Path) -> None:
    """Write the competition's kernel, where it has one, and run it alone: it must give the same bytes as we."""
    from histofold.kaggle.bundle.kernels import KERNELS, write_kernel
    from histofold.kaggle.simulate.run import rehearse_kernel

    if name not in KERNELS:
        return
    path = write_kernel(name, out / "kaggle_kernels", notebook=False, dataset="your-kaggle-name/histofold-demo")
    rehearse_kernel(path, root, out / "weights", submission, out / "kernel.log")
    print(f"kernel: {path} run alone gives the same bytes as histofold predict")
