"""Volumes out-of-fold: surface Dice of each held-out volume, its threshold chosen on the other folds' volumes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from histofold.core.metrics.surface import SurfaceDice
from histofold.core.rle.runs import class_runs
from histofold.data.sources import joined_folds
from histofold.imaging.planes import gather_volume, sorted_volumes, volume_scratch
from histofold.predict.stages import Stage
from histofold.predict.volumes import cut_volume, predict_volume
from histofold.schema.files import LineJournal
from histofold.schema.parse import plain
from histofold.schema.sample import Sample
from histofold.schema.volumes import VolumeConfig
from histofold.trust.evaluation import FinishedRun
from histofold.trust.intervals import grouped_interval, score_bounds
from histofold.trust.masks import OOF_COLUMNS, MaskEvaluation, fold_words, mask_summary
from histofold.trust.oof import FoldRun, fold_key, held_out_ids, kept_slides, slide_key
from histofold.trust.scored import ScoredSlide, scored_slide
from histofold.trust.thresholds import THRESHOLD_GRID, apply_thresholds, choose_thresholds


@dataclass(frozen=True, kw_only=True)
class VolumeEvaluation(MaskEvaluation):
    """What an evaluation of volumes found: that of their slices as masks, headed by the host's score of volumes."""

    @property
    def score(self) -> float:
        """The mean surface Dice of all held-out volumes."""
        return float(self.summary["surface_dice"])

    def fold_lines(self) -> list[str]:
        """The plain Dice of each fold's slices."""
        return [fold_words(fold, values, in_volumes=True) for fold, values in self.summary["folds"].items()]

    def further_lines(self) -> list[str]:
        """The surface Dice of each volume, and the plain Dice of slices."""
        volumes = ", ".join(f"{name} {score:.4f}" for name, score in self.summary["volumes"].items())
        return [f"surface Dice by volume: {volumes}"]

    def peer_words(self) -> str:
        """The plain Dice of slices, and of a mask of everything."""
        return f"plain Dice of slices {self.summary['dice']:.4f}, {super().peer_words()}"


def evaluate_volumes(found: FinishedRun) -> VolumeEvaluation:
    """Score a run of volumes and write oof.csv, thresholds.json and summary.json."""
    folds = found.folds
    volumes, slices, slides = score_volumes(found)
    grid = list(THRESHOLD_GRID)
    several = volumes["fold"].nunique() > 1
    thresholds = choose_thresholds(volumes, grid) if several else {"default": 0.5}
    chosen = {
        fold: choose_thresholds(volumes[volumes["fold"] != fold], grid)["default"] if several else 0.5
        for fold in volumes["fold"].unique()
    }
    scores = np.array([row[chosen[row["fold"]]] for row in volumes.to_dict("records")])
    cuts = slices["fold"].map(chosen).to_numpy(float)
    dice = [row[chosen[row["fold"]]] for row in slices.to_dict("records")]
    oof = slices[["id", "fold", "organ", "source"]].assign(dice=dice)[list(OOF_COLUMNS)]
    groups = volumes["group"].tolist()
    optimistic = apply_thresholds(slices, thresholds)
    summary = mask_summary(slices, oof, optimistic, folds, ()) | {
        "metric": "surface Dice",
        "surface_dice": float(scores.mean()),
        "surface_dice_at_half": float(volumes[0.5].mean()),
        "volumes": dict(zip(volumes["id"], scores.tolist(), strict=True)),
        "interval": score_bounds(grouped_interval(scores, groups)),
    }
    return VolumeEvaluation(**found.write(oof, thresholds, summary), table=slices, slides=slides, cuts=cuts)


def score_volumes(found: FinishedRun) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, ScoredSlide]]:
    """Scores of every held-out volume and of its slices at every threshold of the grid.

    Kept in runs/E/oof_scores.jsonl volume by volume, so that an interrupted evaluation goes on.

    Returns:
        (volumes, slices, slides): tables of id, fold, organ, source, group and a column for each threshold, of surface
        Dice and of plain Dice; that of slices with the Dice of a mask of everything and of none; and what else is kept
        of each slice, by id.
    """
    folds_table, groups = joined_folds(found.sources), found.groups
    journal = LineJournal(found.run / "oof_scores.jsonl")
    known = {entry["key"]: entry for entry in journal.entries if {"key", "surface", "slices"} <= entry.keys()}
    volumes: list[dict[Any, Any]] = []
    rows: list[dict[Any, Any]] = []
    slides: dict[str, ScoredSlide] = {}
    for fold in found.folds:
        weights_key, ensemble = fold_key(fold), None
        held_out = [found.samples[key] for key in held_out_ids(fold, folds_table)]
        for name, samples in sorted_volumes(held_out).items():
            contents = "".join(slide_key(fold, weights_key, sample.id) for sample in samples)
            key = f"{name} {hashlib.sha256(contents.encode()).hexdigest()}"
            entry: dict[str, Any] = known.get(key, {"slices": ()})
            slices = kept_slides(entry["slices"], journal.path)
            if not slices:
                ensemble = ensemble or fold.ensemble()
                surface, slices = _score_volume(ensemble, fold, samples, found)
                entry = {"key": key, "surface": surface, "slices": plain(slices)}
                journal.add(entry)
            first = samples[0]
            facts = {"fold": fold.fold, "organ": first.organ, "source": name, "group": groups[first.id]}
            volumes.append({"id": name, **facts, **dict(zip(THRESHOLD_GRID, entry["surface"], strict=True))})
            for sample, slide in zip(samples, slices, strict=True):
                truth_px, own = slide.classes[0].truth_px, dict(zip(THRESHOLD_GRID, slide.scores[0], strict=True))
                peers = {"everything": 2 * truth_px / (truth_px + slide.counted_px), "nothing": float(truth_px == 0)}
                rows.append({"id": sample.id, **facts, **peers, **own})
                slides[sample.id] = slide
    return pd.DataFrame(volumes), pd.DataFrame(rows), slides


def _score_volume(
    ensemble: Sequence[Stage], fold: FoldRun, samples: Sequence[Sample], found: FinishedRun
) -> tuple[list[float], list[ScoredSlide]]:
    """Surface Dice of a volume at each threshold, and its slices."""
    settings = fold.manifest.volume or VolumeConfig()
    started = time.perf_counter()
    with volume_scratch(found.run) as scratch:
        forward = fold.forward(found.truth, samples)
        map_DHW = predict_volume(ensemble, gather_volume(samples, scratch), settings.axes, scratch, forward)
        cut = [cut_volume(map_DHW, threshold, fold.manifest) for threshold in THRESHOLD_GRID]
        del map_DHW
    seconds = (time.perf_counter() - started) / len(samples)
    metrics = [SurfaceDice() for _ in THRESHOLD_GRID]
    slices = []
    for place, sample in enumerate(tqdm(samples, desc="surface Dice", unit="slice", leave=False, dynamic_ncols=True)):
        (truth,) = class_runs(found.truth.target(sample))
        truth_HW = truth.to_mask()
        for metric, masks in zip(metrics, cut, strict=True):
            metric.add(masks[place].to_mask(), truth_HW)
        slices.append(scored_slide([], [masks[place] for masks in cut], truth, seconds=seconds, pieces=False))
    return [metric.result() for metric in metrics], slices
