"""Ours against a plain script that has the same encoder, first weights, steps, crops and rate, on held-out patients.

    python benchmarks/bench_peer.py --data ../shared/data/glas_hubmap_layout --out bench_peer --steps 500 --seeds 0 1 2
    python benchmarks/bench_peer.py --data ... --out bench_peer --vary defaults unbalanced light

Ours by its default settings, or with one thing changed in training (VARIATIONS), against `peer_smp.py`: whole-slide
Dice over folds by patient, the mean of the seeds for each slide, differences paired, with an interval over patients.
With --predictions the weights of the defaults predict with one thing changed (PREDICTIONS), against themselves; the
peer is not run.
What is done is not done again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from histofold.competitions.base import masks_dice
from histofold.competitions.registry import get_competition
from histofold.data.build import build_dataset
from histofold.models.weights import shipped_path
from histofold.predict.devices import best_device, best_precision
from histofold.predict.image import predict_masks
from histofold.schema.dataset import DataConfig, TilesConfig
from histofold.schema.experiment import AugmentConfig, Experiment, ModelConfig, OptimConfig, TrainConfig
from histofold.schema.network import SHIPPED_ENCODER
from histofold.schema.prediction import VIEW_NAMES
from histofold.schema.preprocessing import Preprocessing
from histofold.schema.run_record import read_records
from histofold.train.loop import train_experiment
from histofold.trust.evaluate import evaluate_run
from histofold.trust.intervals import paired_difference
from histofold.trust.oof import finished_folds

PIXEL_UM, CROP, RATE, ENCODER_SHARE, FOLDS = 1.24, 256, 1.5e-3, 0.3, 3
NEVER = 10**6  # validation during training would cost time and changes nothing
VARIATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "defaults": {},
    "unbalanced": {"train": {"balanced": False}},
    "light": {"augment": {"preset": "light"}},
    "strong": {"augment": {"preset": "strong"}},
    "turned": {"augment": {"rotate": 45.0, "elastic": 0.3}},
    "no average": {"optim": {"ema": 0.0}},
    "small tiles": {"tiles": {"size": 256, "stride": 64}},
}
"""What is changed of the defaults, by section; tiles need a dataset of their own."""
FLIPS = ("identity", "hflip", "vflip", "rot180")
PREDICTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "tiles of 256": {"tile": 256},
    "tiles of 256, blended": {"tile": 256, "blend": True},
    "eight symmetries": {"views": VIEW_NAMES},
    "three zooms": {"views": (*FLIPS, *(f"{name}@{zoom}" for zoom in (0.8, 1.25) for name in FLIPS))},
    "mean of logits": {"average": "logits"},
    "blended, three zooms": {
        "tile": 256,
        "blend": True,
        "views": (*FLIPS, *(f"{name}@{zoom}" for zoom in (0.8, 1.25) for name in FLIPS)),
    },
    "blended at 192 of 256": {"tile": 256, "blend": True, "stride": 192},
    "holes filled": {"max_hole_um2": 2000.0},
    "pieces dropped": {"min_area_um2": 400.0},
}
"""What is changed of how the weights of the defaults predict."""


def experiment_of(variation: str, steps: int, seed: int, out: Path) -> Experiment:
    """The experiment of a variation."""
    own = f"dataset_{variation}".replace(" ", "_") if "tiles" in VARIATIONS[variation] else "dataset"
    experiment = Experiment(
        data=DataConfig(dataset=str(out / own)),
        preprocessing=Preprocessing(target_pixel_size_um=PIXEL_UM),
        tiles=TilesConfig(folds=FOLDS),
        augment=AugmentConfig(crop=CROP),
        model=ModelConfig(encoder=SHIPPED_ENCODER, encoder_weights="shipped"),
        optim=OptimConfig(lr=RATE, encoder_lr_factor=ENCODER_SHARE),
        train=TrainConfig(steps=steps, seed=seed, workers=1, validate_every=NEVER),
    )
    changed = {name: replace(getattr(experiment, name), **values) for name, values in VARIATIONS[variation].items()}
    return replace(experiment, **changed)


def train_ours(variation: str, options: argparse.Namespace, seed: int) -> Path:
    """The run of a variation, all asked folds of it trained."""
    experiment, folds = experiment_of(variation, options.steps, seed, options.out), options.out / "folds.csv"
    dataset = Path(experiment.data.dataset)
    if not (dataset / "index.csv").is_file():
        kept = folds if folds.is_file() else None
        build_dataset(options.data, get_competition("hubmap_2022"), experiment, dataset, kept, 1)
        folds.write_bytes((dataset / "folds.csv").read_bytes())
    name = f"{variation}_{seed}".replace(" ", "_")
    for fold in options.folds:
        list(train_experiment(experiment, name, options.out / "runs", fold, True, None))
    return Path(options.out / "runs" / name)


def peer_dice(options: argparse.Namespace, seed: int) -> pd.DataFrame:
    """The plain script's Dice of the slides of the asked folds; columns group and dice, by id."""
    parts = []
    for fold in options.folds:
        path = options.out / f"peer_{fold}_{seed}.csv"
        if not path.is_file():
            arguments = ["--data", options.data, "--folds", options.out / "folds.csv", "--weights", shipped_path()]
            arguments += ["--fold", fold, "--seed", seed, "--steps", options.steps, "--out", path]
            if best_precision(best_device()) == torch.bfloat16:
                arguments.append("--bf16")
            script = str(Path(__file__).with_name("peer_smp.py"))
            subprocess.run([sys.executable, script, *map(str, arguments)], check=True)
        parts.append(pd.read_csv(path, dtype={"id": str, "group": str}))
    return pd.concat(parts).set_index("id")[["group", "dice"]]


def held_out_dice(run: Path) -> pd.Series:
    """Dice at 0.5 of each held-out slide of a run's finished folds; by id."""
    return pd.Series({key: dice for record in read_records(run).values() for key, dice in record.dice_by_id.items()})


def our_dice(run: Path) -> pd.DataFrame:
    """Dice of each held-out slide at 0.5 and at thresholds that the other folds chose; by id."""
    half = held_out_dice(run)
    evaluate_run(run)
    nested = pd.read_csv(run / "oof.csv", dtype={"id": str}).set_index("id")["dice"]
    return pd.DataFrame({"half": half, "nested": nested})


def changed_dice(run: Path, change: str, data: Path) -> pd.Series:
    """Dice of each held-out slide at 0.5 where its fold's weights predict with one thing changed; by id."""
    kept = run / f"{change.replace(' ', '_')}.csv"
    if not kept.is_file():
        truth = get_competition("hubmap_2022")
        samples = {sample.id: sample for sample in truth.inspect(data, "train")[0]}
        dice = {}
        for fold in finished_folds(run):
            changed = replace(fold, manifest=replace(fold.manifest, **PREDICTIONS[change]))
            stages = changed.ensemble()
            for key in tqdm(fold.record.dice_by_id, desc=f"{change}, fold {fold.fold}"):
                masks = predict_masks(stages, samples[key], [0.5], truth.never_empty)[0]
                dice[key] = masks_dice(masks, truth.target(samples[key]))
        pd.Series(dice, name="dice").rename_axis("id").to_csv(kept)
    return pd.read_csv(kept, dtype={"id": str}).set_index("id")["dice"]


def mean_of(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of each slide over seeds."""
    return pd.concat([table.select_dtypes("number") for table in tables]).groupby(level=0).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench_peer"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--predictions", nargs="+", default=[], choices=list(PREDICTIONS))
    parser.add_argument("--vary", nargs="+", default=["defaults"], choices=list(VARIATIONS))
    options = parser.parse_args()
    runs = {name: [train_ours(name, options, seed) for seed in options.seeds] for name in options.vary}
    if options.predictions:
        compare_predictions(runs["defaults"], options)
        return
    tables = [peer_dice(options, seed) for seed in options.seeds]
    peer, groups = mean_of(tables)["dice"], tables[0]["group"]
    print(f"peer {peer.mean():.4f}, {len(peer)} slides of {groups.nunique()} patients")
    for name, of_seeds in runs.items():
        ours = mean_of([our_dice(run) for run in of_seeds]).loc[peer.index]
        for threshold in ours:
            difference = paired_difference(peer.tolist(), ours[threshold].tolist(), groups.loc[peer.index].tolist())
            print(f"{name:<12} {threshold:<6} {difference}")


def compare_predictions(runs: Sequence[Path], options: argparse.Namespace) -> None:
    """Print what each change of prediction gains over the defaults of the same weights."""
    dice = {
        change: mean_of([changed_dice(run, change, options.data).to_frame() for run in runs])["dice"]
        for change in dict.fromkeys(["defaults", *options.predictions])
    }
    own = dice["defaults"]
    groups = pd.read_csv(options.out / "folds.csv", dtype=str).set_index("id")["group"]
    for change, changed in dice.items():
        pair = own.tolist(), changed.loc[own.index].tolist()
        print(f"{change:<22} {paired_difference(*pair, groups.loc[own.index].tolist())}")


if __name__ == "__main__":
    main()
