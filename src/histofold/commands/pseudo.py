"""`python build_dataset.py --data UNLABELLED --pseudo-labels runs/E`: tiles with predicted labels, a set a fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from histofold.competitions.base import Competition, image_error_fault
from histofold.core.faults import Fault, InputError
from histofold.core.rle.runs import Runs, class_runs, parse_rle, runs_to_text
from histofold.data.folds import ALWAYS_TRAINED, stratum_names
from histofold.data.leaks import image_stamp
from histofold.data.pseudo import PSEUDO_RECORD, LabelMaker, PseudoRecord, cut_pseudo_tiles, pseudo_folder
from histofold.data.store import DatasetInfo
from histofold.imaging.errors import ImageError
from histofold.imaging.slide import open_slide
from histofold.predict.image import predict_masks
from histofold.schema.atomic import write_atomically
from histofold.schema.journal import LineJournal
from histofold.schema.manifest import file_sha256, look_up_threshold
from histofold.schema.parse import plain
from histofold.schema.sample import Sample
from histofold.trust.oof import FoldRun, finished_folds, run_experiment, run_thresholds

LABEL_JOURNAL = "pseudo_labels.jsonl"


def build_pseudo_dataset(root: Path, competition: Competition, run: Path, out: Path, workers: int) -> pd.DataFrame:
    """Write a dataset of unlabelled images, labelled once for each finished fold of a run.

    The labels for fold k come from the network of fold k alone, which has not seen that fold's validation images, and
    only training of fold k reads them. Scale, tiles and thresholds are the run's own. The thresholds were chosen on
    all folds: a handful of numbers, and no pixel, of fold k's validation images reaches its labels. An image on which
    nothing passes the threshold has an empty label.

    Args:
        root: The folder of unlabelled images.
        competition: Its adapter; the images are those of its test split.
        run: The evaluated run, runs/E.
        out: Where to write.
        workers: Processes that cut tiles.

    Returns:
        The index, as index.csv.

    Raises:
        InputError: If the run is not evaluated or does not say what it was trained on, or images cannot be read.
    """
    if (out / "dataset.json").is_file() and not (out / PSEUDO_RECORD).is_file():
        raise InputError([Fault(out.name, str(out), "holds a dataset of people's labels", "give another --out")])
    folds, experiment = finished_folds(run), run_experiment(run)
    record = pseudo_record(run, folds)
    samples = _readable_samples(competition.samples(root, "test"))
    out.mkdir(parents=True, exist_ok=True)
    journal = LabelJournal(out / LABEL_JOURNAL)
    labels = {fold.fold: predict_labels(fold, record, samples, journal) for fold in folds}
    # Until the new dataset.json stands, the dataset counts as unfinished.
    (out / "dataset.json").unlink(missing_ok=True)
    write_atomically(out / PSEUDO_RECORD, json.dumps(plain(record), indent=2) + "\n")
    index, mean, std = cut_pseudo_tiles(samples, labels, experiment, out, workers)
    fractions = _mean_fractions(labels)
    columns = {"id": list(fractions), "group": [s.group or s.id for s in samples]}
    table = pd.DataFrame({**columns, "stratum": stratum_names(samples, fractions), "fold": ALWAYS_TRAINED})
    write_atomically(out / "folds.csv", table.to_csv(index=False, lineterminator="\n"))
    write_atomically(out / "index.csv", index.to_csv(index=False, lineterminator="\n"))
    _write_pseudo_report(out, record, index, table)
    info = DatasetInfo(
        competition=competition.name,
        root=str(root.resolve()),
        preprocessing=experiment.preprocessing,
        tiles=experiment.tiles,
        classes=folds[0].manifest.classes,
        mean=mean,
        std=std,
    )
    write_atomically(out / "dataset.json", json.dumps(plain(info), indent=2) + "\n")
    return index


def pseudo_record(run: Path, folds: Sequence[FoldRun]) -> PseudoRecord:
    """What pseudo.json will say of the networks of a run.

    Raises:
        InputError: If the run has no thresholds.json or several classes, or a fold does not say what it was trained on.
    """
    classes = folds[0].manifest.classes
    if len(classes) > 1:
        rule = f"labels are predicted of one class, and it has {', '.join(classes)}"
        raise InputError([Fault(run.name, str(run), rule, "take a run of one class")])
    thresholds = run_thresholds(run)
    silent = [
        Fault(
            fold.folder.name, str(fold.folder / "run.json"), "it does not say what it was trained on", "train it anew"
        )
        for fold in folds
        if "trained_on" not in fold.record
    ]
    if silent:
        raise InputError(silent)
    makers = {
        str(fold.fold): LabelMaker(
            weights_sha256=file_sha256(fold.folder / "model.safetensors"),
            competition=fold.record["competition"],
            trained_on=fold.record["trained_on"],
        )
        for fold in folds
    }
    return PseudoRecord(run=str(run), thresholds=thresholds, makers=makers)


def _readable_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, once every header was read: hours of prediction must not end at the last one."""
    faults = []
    for sample in samples:
        try:
            open_slide(sample.image_path).close()
        except ImageError as error:
            faults.append(image_error_fault(sample.id, sample.image_path, error))
    if faults:
        raise InputError(faults)
    return list(samples)


class LabelJournal:
    """Predicted labels, appended line by line, so that an interrupted call goes on."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._journal = LineJournal(path)
        self._known = {
            entry["key"]: parse_rle(entry["rle"], tuple(entry["shape_hw"])) for entry in self._journal.entries
        }

    def get(self, key: str) -> Runs | None:
        """The label of a key."""
        return self._known.get(key)

    def add(self, key: str, sample_id: str, fold: int, runs: Runs) -> None:
        """Keep a label; image and fold are for people to read."""
        entry = {"key": key, "id": sample_id, "fold": fold, "shape_hw": runs.shape_hw, "rle": runs_to_text(runs)}
        self._journal.add(entry)


def predict_labels(
    fold: FoldRun, record: PseudoRecord, samples: Sequence[Sample], journal: LabelJournal
) -> dict[str, Runs]:
    """The label of each image by the network of one fold.

    Raises:
        InputError: With every image that cannot be decoded.
    """
    maker, ensemble = record.makers[str(fold.fold)], None
    settings = json.dumps([maker.weights_sha256, plain(fold.manifest)], sort_keys=True)
    labels: dict[str, Runs] = {}
    faults = []
    for sample in tqdm(samples, desc=f"labels of fold {fold.fold}", unit="image", dynamic_ncols=True):
        threshold = look_up_threshold(record.thresholds, sample.organ, sample.source)
        key = json.dumps([settings, threshold, sample.pixel_size_um, image_stamp(sample.image_path)])
        runs = journal.get(key)
        if runs is None:
            ensemble = ensemble or fold.ensemble()
            try:
                (masks,) = predict_masks(ensemble, sample, fold.manifest, [threshold], never_empty=False)
            except ImageError as error:
                faults.append(image_error_fault(sample.id, sample.image_path, error))
                continue
            (runs,) = class_runs(masks)
            journal.add(key, sample.id, fold.fold, runs)
        labels[sample.id] = runs
    if faults:
        raise InputError(faults)
    return labels


def _mean_fractions(labels: dict[int, dict[str, Runs]]) -> dict[str, float]:
    """Mask fraction of each image, the mean over its labels."""
    first = next(iter(labels.values()))
    return {
        key: sum(masks[key].area for masks in labels.values()) / len(labels) / (runs.shape_hw[0] * runs.shape_hw[1])
        for key, runs in first.items()
    }


def _write_pseudo_report(out: Path, record: PseudoRecord, index: pd.DataFrame, folds: pd.DataFrame) -> None:
    from histofold.commands.pictures import sample_tiles
    from histofold.report.reports import write_dataset_report

    first = int(min(index["label_fold"], default=0))
    facts = {"images": len(folds), "label sets": len(record.makers), "tiles": len(index), "labels of": record.run}
    notices = [
        f"the labels for fold {fold} were predicted by weights {maker.weights_sha256[:16]}, trained on "
        f"{len(maker.trained_on)} images; only training of fold {fold} reads them"
        for fold, maker in record.makers.items()
    ]
    write_dataset_report(
        out / "dataset_report.html",
        facts=facts,
        index=index,
        folds=folds,
        overlays=sample_tiles(pseudo_folder(out, first), index[index["label_fold"] == first]),
        notices=notices,
    )
