"""Predicted labels of unlabelled images: one set for each fold, and the record of which networks made it.

A dataset of predicted labels lies in a folder like any other; the tiles of fold k's labels lie in its folder `fold{k}`,
where only training of fold k reads them. They come from the networks that fold k of one or more runs trained, which
have not seen that fold's validation images; pseudo.json says what they have seen, so that this can be held against any
fold.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from histofold.competitions.objects import covered_pixels
from histofold.core.faults import Fault, InputError, listed_ids
from histofold.core.log import logger
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Runs
from histofold.data.folds import ALWAYS_TRAINED
from histofold.data.leaks import PSEUDO, seen_images
from histofold.data.tiles.cut import CutTiles, TileJob, cut_slides
from histofold.schema.experiment import Experiment
from histofold.schema.parse import load_own_json
from histofold.schema.sample import Sample

PSEUDO_RECORD = "pseudo.json"


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What predicted masks are like as labels."""

    soft: bool = False
    """Keep probabilities instead of masks: an example then cuts them at a level of its own, so that a pixel is mask as
    often as it is probable."""
    unsure: tuple[float, ...] = ()
    """Two probabilities between which pixels do not count; none: all pixels count."""
    min_certainty: float = 0.0
    """Tiles whose mean of |2p - 1| over their pixels, p a pixel's probability in sixteen steps, is lower are left out;
    0 keeps all."""

    @property
    def keeps_levels(self) -> bool:
        """Whether probabilities are predicted, and not only what passes a threshold."""
        return self.soft or self.min_certainty > 0

    def __post_init__(self) -> None:
        if self.unsure and not (len(self.unsure) == 2 and 0 < self.unsure[0] < self.unsure[1] < 1):
            raise ValueError(f"unsure={self.unsure}: give two probabilities, the lower one first, within 0 and 1")
        if not 0 <= self.min_certainty <= 1:
            raise ValueError(f"min_certainty={self.min_certainty} must lie within 0 and 1")


@dataclass(frozen=True)
class MaskLabel:
    """A predicted mask, and what is known of its certainty."""

    mask: Runs
    """What passes the threshold, cleaned."""
    levels: tuple[Runs, ...] = ()
    """Where probabilities are kept, the masks that `soft_values` takes, before cleaning."""
    unsure: Runs | None = None
    """Pixels that do not count."""


@dataclass(frozen=True, kw_only=True)
class LabelMaker:
    """The networks that made the labels of one fold together."""

    weights_sha256: str
    """SHA-256 of its model.safetensors; of several networks theirs, joined by blanks."""
    competition: str
    """Name of the adapter whose ids they were trained on."""
    trained_on: dict[str, str]
    """File stamp by id of every image that one of them, or a network before it, was trained on."""


@dataclass(frozen=True, kw_only=True)
class PseudoRecord:
    """Where a dataset's labels come from."""

    run: str
    """The run whose folds predicted them; several are joined by blanks."""
    thresholds: dict[str, float]
    """The probability thresholds, as thresholds.json of the run; of objects the least score of one that is a label."""
    makers: dict[str, LabelMaker]
    """By fold, as text: the networks that predicted the labels which training of this fold reads."""
    labels: LabelConfig = field(default_factory=LabelConfig)
    """What the labels are like."""


def pseudo_folder(dataset: Path, fold: int) -> Path:
    """Where the tiles with the labels for a fold lie."""
    return dataset / f"fold{fold}"


def load_pseudo_record(dataset: Path) -> PseudoRecord | None:
    """The record of a dataset of predicted labels; None for labels made by people."""
    path = dataset / PSEUDO_RECORD
    return load_own_json(PseudoRecord, path, "predict the labels anew") if path.is_file() else None


def label_faults(
    record: PseudoRecord, dataset: Path, fold: int, forbidden: Sequence[Sample], own_competition: str
) -> list[Fault]:
    """Why a fold may not train on predicted labels: there are none for it, or their network saw what it is scored on.

    Args:
        record: Where the labels come from.
        dataset: Their dataset.
        fold: The fold that is trained.
        forbidden: What the network must not have seen, as `forbidden_samples` gives it.
        own_competition: Name of the adapter of these samples.
    """
    path = dataset / PSEUDO_RECORD
    maker = record.makers.get(str(fold))
    if maker is None:
        rule = f"no labels for fold {fold}: the run that predicted them has folds {', '.join(record.makers)}"
        return [Fault(f"fold {fold}", str(path), rule, "predict them with a run of the same folds")]
    seen = seen_images(maker.trained_on, maker.competition, forbidden, own_competition)
    if not seen:
        return []
    rule = f"its network was trained on {len(seen)} images that fold {fold} is scored on ({listed_ids(seen)}): it leaks"
    return [Fault(f"fold {fold}", str(path), rule, "predict the labels with a run of the same folds")]


def cut_pseudo_tiles(
    samples: Sequence[Sample],
    labels: Mapping[int, Mapping[str, MaskLabel | Objects]],
    experiment: Experiment,
    out: Path,
    workers: int,
    wanted: LabelConfig,
) -> CutTiles:
    """Cut the tiles of each fold's labels, into `fold{k}` of a dataset.

    Args:
        samples: The unlabelled images.
        labels: Predicted mask, or objects, by id, by fold, lowest fold first.
        experiment: Scale and tiles.
        out: The dataset.
        workers: Processes.
        wanted: What labels of masks are like.

    Returns:
        Rows of index.csv of all folds, the moments of the first fold's tiles, and how many tiles of all folds were left
        out by their certainty.

    Raises:
        InputError: If no tile of a fold is certain enough.
    """
    first = min(labels)
    cut: dict[int, CutTiles] = {}
    for fold, predicted in labels.items():
        folder = pseudo_folder(out, fold)
        jobs = [
            TileJob(
                sample=sample,
                target=label_pixels(label),
                objects=label if isinstance(label, Objects) else None,
                ignored=label.unsure if isinstance(label, MaskLabel) else None,
                levels=label.levels if isinstance(label, MaskLabel) else (),
                soft=wanted.soft,
                min_certainty=wanted.min_certainty,
                fold=ALWAYS_TRAINED,
                preprocessing=experiment.preprocessing,
                tiles=experiment.tiles,
                out=folder,
            )
            for sample in samples
            for label in [predicted[sample.id]]
        ]
        cut[fold] = cut_slides(jobs, workers)
        if wanted.min_certainty:
            _say_left_out(cut[fold], fold, out, wanted.min_certainty)
        if fold != first:
            share_files(pseudo_folder(out, first) / "images", folder / "images")
    parts = [tiles.index.assign(label_origin=PSEUDO, label_fold=fold) for fold, tiles in cut.items()]
    unsure = sum(tiles.unsure for tiles in cut.values())
    return CutTiles(pd.concat(parts, ignore_index=True), cut[first].mean, cut[first].std, unsure)


def _say_left_out(cut: CutTiles, fold: int, out: Path, least: float) -> None:
    """Log how many tiles of a fold's labels were left out; refuse labels of which nothing is left."""
    if cut.unsure and cut.index.empty:
        rule = f"of its {cut.unsure} tiles none has a mean certainty of {least:g}"
        raise InputError([Fault(f"fold {fold}", str(out), rule, "give a lower --min-certainty")])
    logger.info(
        "labels for fold %d: %d tiles left out, of a mean certainty below %g; %d kept",
        *(fold, cut.unsure, least, len(cut.index)),
    )


def label_pixels(label: MaskLabel | Objects) -> Runs:
    """The pixels of a predicted mask, or of any predicted object."""
    return covered_pixels(label) if isinstance(label, Objects) else label.mask


def share_files(first: Path, second: Path) -> int:
    """Store files of equal name and bytes of two folders once, as hard links where the disk has them; how many."""
    shared = 0
    for path in sorted(second.iterdir()):
        twin = first / path.name
        if not twin.is_file() or twin.samefile(path) or not filecmp.cmp(twin, path, shallow=False):
            continue
        link = path.with_name(f"{path.name}.link")
        try:
            os.link(twin, link)
        except OSError:  # a disk without hard links: every fold keeps its own
            return shared
        link.replace(path)
        shared += 1
    return shared
