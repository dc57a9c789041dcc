"""A small project whose verbs are killed with SIGKILL at any moment, or starved of disk or memory, and run again.

Each verb runs in a fork of this process, which has everything loaded: what is killed is the work, not the start. Used
by tests/commands/test_kills.py, and for long by benchmarks/kill_resume.py.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import pandas as pd
import torch
from PIL import Image

import histofold
from histofold.commands.main import main
from histofold.schema.files import weights_rule
from histofold.schema.parse import to_toml
from small_datasets import draw, make_folder
from small_runs import TinyNet, small_experiment

SWEEP = 'experiment = "small.toml"\nfolds = [0]\nsampler = "grid"\n[space]\n"optim.lr" = [1e-3, 1e-2]\n'
RESULTS_ASKED = "--masks {0}/out/masks --geojson {0}/out/geojson --overlays {0}/out/overlays"
PART = "predict --weights {0}/weights --data {0}/raw --num-shards 2 --out {0}/part{1}.csv --shard-id {1}"
VERBS = {
    "build": ("build --data {0}/raw --out {0}/dataset --experiment {0}/small.toml --workers 1",),
    "train": ("train {0}/small.toml --runs {0}/runs --resume",),
    "sweep": ("sweep {0}/sweep.toml --runs {0}/runs",),
    "evaluate": ("evaluate {0}/runs/small",),
    "package": ("package {0}/runs/small --out {0}/weights",),
    "predict": (f"predict --weights {{0}}/weights --data {{0}}/raw --out {{0}}/s.csv {RESULTS_ASKED}",),
    "merge": (PART.format("{0}", 0), PART.format("{0}", 1), "merge {0}/part0.csv {0}/part1.csv --out {0}/m.csv"),
}
"""What each verb is called with: all lines of one are killed as one piece of work."""
RESULTS = {
    "build": ("dataset/folds.csv", "dataset/index.csv", "dataset/images/*", "dataset/masks/*", "dataset/parts/*"),
    "train": ("runs/small/fold*/model.safetensors", "runs/small/fold*/log.csv"),
    "sweep": ("runs/sweep/table.csv",),
    "evaluate": ("runs/small/oof.csv", "runs/small/thresholds.json"),
    "package": ("weights/*",),
    "predict": ("s.csv", "out/*/*"),
    "merge": ("m.csv",),
}
"""What a verb makes, and must make again to the byte; of tables without the columns of times."""
TIMES = ("seconds", "images_per_s", "duration", "started", "minutes")


def use_tiny_nets(patch: Callable[[str, object], None]) -> None:
    """Have all verbs build a network of a thousand weights."""
    for place in ("train.run.build_network", "trust.oof.build_network", "predict.tuner.build_network"):
        patch(f"histofold.{place}", lambda *_: TinyNet())
    patch("histofold.predict.submission.rows.MaskRows.build", staticmethod(lambda *_: TinyNet()))


Limits = tuple[tuple[int, int], ...]
MOST_S = 600
"""What a verb may take before it counts as hung."""


def load_everything() -> None:
    """Import all of ours, so that forks have it."""
    for module in pkgutil.walk_packages(histofold.__path__, "histofold."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def forked(lines: tuple[str, ...], kill_after_s: float | None = None, limits: Limits = ()) -> int:
    """Run verbs in a fork; gives its exit status, negative where a signal ended it.

    Args:
        lines: What they are called with.
        kill_after_s: When it is killed, None for never.
        limits: Resources and how much of them it has: bytes of a file, or of memory beside what is loaded.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for kind, most in limits:
                resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            status = 0
            for line in lines:  # of a verb that failed the next ones have nothing
                status = status or main(line.split())
        finally:
            os._exit(status)
    if kill_after_s is not None:
        deadline = time.monotonic() + kill_after_s
        while time.monotonic() < deadline:
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                return 0
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + MOST_S
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


@dataclass
class Stage:
    """A verb, the project before it, and what it makes."""

    verb: str
    before: Path
    """A copy of the project before it."""
    seconds: float
    """What it takes where nobody kills it."""
    made: dict[str, str]
    """Its results by path."""


def make_stages(root: Path) -> list[Stage]:
    """Run the whole chain once, verb by verb, in root/project; gives each verb with a copy of what was before it."""
    load_everything()
    project = root / "project"
    make_folder(project / "raw", {f"p{n}": draw(n) for n in range(6)})
    experiment = small_experiment(project / "dataset", train={"steps": 6, "save_every": 1, "validate_every": 2})
    (project / "small.toml").write_text(to_toml(experiment))
    (project / "sweep.toml").write_text(SWEEP)
    stages = []
    for verb, lines in VERBS.items():
        before = root / "before" / verb
        shutil.copytree(project, before)
        started = time.monotonic()
        status = forked(tuple(line.format(project) for line in lines))
        assert status == 0, verb
        stages.append(Stage(verb, before, time.monotonic() - started, results(project, verb)))
    return stages


def results(project: Path, verb: str) -> dict[str, str]:
    """Digests of what a verb has made, by path."""
    paths = [path for pattern in RESULTS[verb] for path in project.glob(pattern) if path.is_file()]
    return {str(path.relative_to(project)): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    if path.suffix == ".csv" and path.name in ("log.csv", "table.csv"):
        table = pd.read_csv(path)
        kept = [name for name in table.columns if not any(word in name for word in TIMES)]
        return table[kept].to_csv()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unreadable(project: Path) -> list[str]:
    """Files that bear the name of something whole and cannot be read as it."""
    readers: dict[str, Callable[[Path], object]] = {
        ".csv": pd.read_csv,
        ".json": lambda path: json.loads(path.read_text()),
        ".geojson": lambda path: json.loads(path.read_text()),
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".png": lambda path: Image.open(path).load(),
        ".bmp": lambda path: cv2.imread(str(path)).shape,
        ".safetensors": lambda path: 1 / (not weights_rule(path)),
    }
    broken = []
    for path in project.rglob("*"):
        if path.is_file() and path.suffix in readers:
            try:
                readers[path.suffix](path)
            except Exception as error:
                broken.append(f"{path.relative_to(project)}: {error!r}")
    return broken


def _finished_work(project: Path, stage: Stage) -> list[str]:
    """What must not be made again: weights of folds that have their record, tiles of slides that have theirs."""
    if stage.verb == "train":
        folds = [path.parent for path in project.glob("runs/small/fold*/run.json")]
        return [str((fold / "model.safetensors").relative_to(project)) for fold in folds]
    if stage.verb == "build":
        slides = [path.stem for path in project.glob("dataset/parts/*.json")]
        return [path for path in stage.made if "/images/" in path and Path(path).name.startswith(tuple(slides or "/"))]
    return []


def kill_once(root: Path, stage: Stage, draws: random.Random) -> list[str]:
    """Kill a verb at a random moment and run it again; gives what was lost, in words."""
    project = root / "project"
    lines = tuple(line.format(project) for line in VERBS[stage.verb])
    status = 0
    while status != -signal.SIGKILL:  # one that had ended before counts for nothing
        shutil.rmtree(project)
        shutil.copytree(stage.before, project)
        after_s = draws.uniform(0, stage.seconds)
        status = forked(lines, after_s)
    lost = _after_a_fault(project, stage, lines)
    return [f"{stage.verb} killed after {after_s:.3f} s: {each}" for each in lost]


def starve_once(root: Path, stage: Stage, draws: random.Random, kind: str) -> list[str]:
    """Run a verb with files (`disk`) or memory of a random limit, then without; gives what was lost, in words."""
    project = root / "project"
    shutil.rmtree(project)
    shutil.copytree(stage.before, project)
    lines = tuple(line.format(project) for line in VERBS[stage.verb])
    if kind == "disk":
        limit = (resource.RLIMIT_FSIZE, int(2 ** draws.uniform(4, 17)))
    else:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = (resource.RLIMIT_AS, pages * resource.getpagesize() + int(2 ** draws.uniform(20, 28)))
    status = forked(lines, limits=(limit,))
    aborted = kind == "memory" and status < 0  # as C++ ends where it gets none: a kill like any other
    lost = [] if status in (0, 2) or aborted else [f"ends with {status}"]
    lost += _after_a_fault(project, stage, lines)
    return [f"{stage.verb} with {limit[1]} bytes of {kind}: {each}" for each in lost]


def _after_a_fault(project: Path, stage: Stage, lines: tuple[str, ...]) -> list[str]:
    """What a fault has lost, in words: the project is looked at, the verb runs again, and what it makes is compared."""
    lost = [f"unreadable: {each}" for each in unreadable(project)]
    done = {path: (project / path).stat().st_mtime_ns for path in _finished_work(project, stage)}
    status = forked(lines)
    lost += [f"the second call ends with {status}"] if status else []
    made = results(project, stage.verb)
    lost += [f"differs: {path}" for path in stage.made if made.get(path) != stage.made[path]]
    lost += [f"of a killed process: {path.name}" for path in project.rglob("*.tmp")]
    lost += [f"made again: {path}" for path, made_ns in done.items() if (project / path).stat().st_mtime_ns != made_ns]
    return lost
