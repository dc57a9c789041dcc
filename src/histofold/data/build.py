"""From a competition folder to folds and tiles: what `python build_dataset.py` does, its report aside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pandas as pd

from histofold.competitions.base import Competition, ObjectCompetition, image_error_fault
from histofold.competitions.objects import covered_pixels
from histofold.core.faults import Fault, ImageError, InputError
from histofold.core.log import logger
from histofold.core.objects.instances import Objects
from histofold.core.objects.morphology import grow_objects
from histofold.core.rle.runs import Masks, Runs, class_runs
from histofold.data.check import audit_images, nothing_labelled
from histofold.data.cleaning import cleaned_targets
from histofold.data.contents import measure_contents, true_objects, truth_digest
from histofold.data.explore.folder import Exploration, explore_folder
from histofold.data.explore.notices import Notice
from histofold.data.folds import check_fold_rule, plan_folds
from histofold.data.folds_file import read_folds
from histofold.data.leaks import MOST_LINES, find_leaks, patients_in_words
from histofold.data.planes import CrossPlane, cross_planes
from histofold.data.store import DatasetInfo, begin_dataset, dataset_origin, finish_dataset
from histofold.data.tiles.cut import CutTiles, TileJob, cut_slides
from histofold.data.tiles.masks import masked_fraction
from histofold.data.tiles.plan import Rings
from histofold.imaging.stain import fit_slide_reference
from histofold.schema.experiment import Experiment
from histofold.schema.preprocessing import StainReference, has_pixel_size
from histofold.schema.sample import Sample
from histofold.schema.volumes import SLICE_AXIS


@dataclass(frozen=True, kw_only=True)
class BuiltDataset:
    """What was seen and made while a dataset was built: what its report shows."""

    folder: Path
    """Where it lies."""
    competition: Competition
    """The adapter that gave the samples."""
    samples: Sequence[Sample]
    """All training samples."""
    fractions: Mapping[str, float]
    """Labelled share of each image, before cleaning."""
    exploration: Exploration
    """What was seen of the slides."""
    folds: pd.DataFrame
    """folds.csv."""
    index: pd.DataFrame
    """index.csv."""
    leaks: Sequence[str]
    """What makes scores look better than they are."""
    patients: str
    """What is not known of patients, in words."""


def build_dataset(
    root: Path, competition: Competition, experiment: Experiment, out: Path, folds_path: Path | None, workers: int
) -> BuiltDataset:
    """Write a dataset; nothing is written before every fault of the input is known.

    Args:
        root: The competition folder.
        competition: Its adapter.
        experiment: Scale and tiles.
        out: Where to write.
        folds_path: Folds to keep; None makes them, or keeps those of an earlier call.
        workers: Processes that cut tiles.

    Returns:
        The dataset, for its report.

    Raises:
        InputError: With all faults.

    Example:
        >>> built = build_dataset(Path("raw"), get_competition("folder"), Experiment(), Path("dataset"), None, 4)
        >>> write_build_report(built)  # of histofold.report.dataset
    """
    samples, faults = competition.inspect(root, "train")
    if folds_path is None and (out / "folds.csv").is_file():
        folds_path = out / "folds.csv"  # folds are computed once: other library versions would give others
    kept = _early_folds(samples, faults, experiment, root, folds_path)  # before a single image is opened
    faults += audit_images(competition, samples, decode=False)
    if faults:
        raise InputError(faults)
    _refuse_object_settings(competition, samples, experiment)
    _warn(competition.notices[:MOST_LINES])
    if len(competition.notices) > MOST_LINES:
        logger.warning("%d more notices stand in the report", len(competition.notices) - MOST_LINES)
    targets = {sample.id: competition.target(sample) for sample in samples}
    fractions = {key: masked_fraction(target) for key, target in targets.items()}
    if not any(fractions.values()):
        raise InputError([nothing_labelled(root)])
    origin = dataset_origin(root, out, measure_contents(samples, partial(truth_digest, competition)))
    if experiment.data.clean_blank:
        targets = cleaned_targets(samples, targets)
    reference = _stain_reference(samples, experiment)
    exploration = explore_folder(competition, samples)
    hints = scale_hints(samples, targets, experiment)
    _warn(hints)
    exploration = replace(exploration, notices=[*exploration.notices, *hints])
    folds = kept
    if folds is None:
        folds = plan_folds(samples, fractions, experiment.tiles, clusters=exploration.clusters, root=root)
    begin_dataset(out, folds)
    jobs = _tile_jobs(samples, targets, folds, competition, experiment, out)
    with cross_planes(samples, targets, experiment.tiles, out) as planes:
        cut = cut_slides([*jobs, *_plane_jobs(planes, jobs)], workers)
    leaks = find_leaks(folds, samples, index=cut.index, clusters=exploration.clusters)
    if leaks.faults:
        raise InputError(leaks.faults)
    patients = patients_in_words({sample.id: sample.group for sample in samples}, folds)
    _warn([*(f"leak: {notice}" for notice in leaks.notices), *filter(None, [patients])])
    info = _dataset_info(origin, competition, experiment, cut, reference)
    finish_dataset(out, cut.index, info)
    return BuiltDataset(
        folder=out,
        competition=competition,
        samples=samples,
        fractions=fractions,
        exploration=exploration,
        folds=folds,
        index=cut.index,
        leaks=leaks.notices,
        patients=patients,
    )


def _warn(lines: Iterable[object]) -> None:
    for line in lines:
        logger.warning("%s", line)


def _early_folds(
    samples: Sequence[Sample], faults: Sequence[Fault], experiment: Experiment, root: Path, path: Path | None
) -> pd.DataFrame | None:
    """The folds that are kept, None where they are to be made; what is wrong with either is known without an image.

    Raises:
        InputError: With the faults of the folds, and those that are known already.
    """
    if not samples:
        return None
    try:
        if path is not None:
            return read_folds(path, samples, experiment.tiles.fold_by)
        check_fold_rule(samples, experiment.tiles, root)
    except InputError as error:
        raise InputError([*faults, *error.faults]) from error
    return None


def scale_hints(samples: Sequence[Sample], targets: Mapping[str, Masks], experiment: Experiment) -> list[Notice]:
    """Examples that are larger than every image at the network's scale, and a physical scale without one pixel size."""
    spec, size = experiment.preprocessing, min(experiment.augment.crop or experiment.tiles.size, experiment.tiles.size)
    if spec.scale_mode == "whole" or not samples:
        return []
    hints = []
    if not any(has_pixel_size(sample.pixel_size_um) for sample in samples):
        text = f"no image has one: all are read at the whole-image scale, their long side {spec.whole_size} px"
        hints.append(Notice(kind="scale", ids=("pixel_size",), text=text))
    shapes = [class_runs(targets[sample.id])[0].shape_hw for sample in samples]
    seen = [(height + 2 * spec.context_px, width + 2 * spec.context_px) for height, width in shapes]
    scaled = [spec.scaled_hw(hw, s.pixel_size_um, s.organ) for hw, s in zip(seen, samples, strict=True)]
    clipped = {s.id: words for s in samples if (words := spec.clipped_words(s.pixel_size_um, s.organ))}
    if clipped:
        first = next(iter(clipped.values()))
        text = f"{len(clipped)} images ask for more zoom than preprocessing allows; of the first {first}"
        hints.append(Notice(kind="scale", ids=tuple(clipped), text=text))
    largest = max(scaled, key=max)
    if max(largest) < size:
        text = f"examples of {size} px are larger than every image at the network's scale, of which the largest has "
        text += f"{largest[0]} x {largest[1]} px, and the rest is reflected: set augment.crop below that"
        hints.append(Notice(kind="scale", ids=("tiles.size",), text=text))
    return hints


def _stain_reference(samples: Sequence[Sample], experiment: Experiment) -> StainReference:
    """The colours of the images that the experiment names for stain normalisation; empty where it names none."""
    wanted = experiment.data.stain_references
    by_id = {sample.id: sample for sample in samples}
    unknown = [key for key in wanted if key not in by_id]
    if unknown:
        rule = "data.stain_references names an image that is not there"
        raise InputError([Fault(key, "experiment", rule, "name training images") for key in unknown])
    try:
        reference = fit_slide_reference([by_id[key] for key in wanted], experiment.preprocessing)
    except ImageError as error:
        raise InputError([image_error_fault("data.stain_references", Path("experiment"), error)]) from error
    if set(reference.images) != set(wanted):
        pale = sorted(set(wanted) - set(reference.images))
        rule = f"{', '.join(pale)}: too little tissue to measure colours on"
        raise InputError([Fault("data.stain_references", "experiment", rule, "name other images")])
    return reference


def _tile_jobs(
    samples: Sequence[Sample],
    targets: Mapping[str, Masks],
    folds: pd.DataFrame,
    competition: Competition,
    experiment: Experiment,
    out: Path,
) -> list[TileJob]:
    """What is to be cut of each slide."""
    fold_of = dict(zip(folds["id"], folds["fold"], strict=True))
    regions_of: Callable[[Sample], Rings]
    regions_of = getattr(competition, "regions", lambda sample: {})  # not every competition knows the anatomy
    truths = {sample.id: _tile_truth(competition, sample, targets[sample.id], experiment) for sample in samples}
    return [
        TileJob(
            sample=sample,
            target=truths[sample.id].target,
            fold=int(fold_of[sample.id]),
            preprocessing=experiment.preprocessing,
            tiles=experiment.tiles,
            out=out,
            classes=competition.classes,
            regions=regions_of(sample),
            ignored=truths[sample.id].ignored,
            objects=truths[sample.id].objects,
        )
        for sample in samples
    ]


def _plane_jobs(planes: Sequence[CrossPlane], jobs: Sequence[TileJob]) -> list[TileJob]:
    """What is to be cut of planes across slices, in the folds of these."""
    of_slice = {job.sample.id: job for job in jobs}
    return [
        replace(
            of_slice[plane.owner],
            sample=plane.sample,
            target=plane.target,
            owner=plane.owner,
            contents=plane.contents,
        )
        for plane in planes
    ]


class _TileTruth(NamedTuple):
    """What tiles of a slide are cut of: masks, ignored pixels, and the objects in competitions of them."""

    target: Masks
    ignored: Runs | None
    objects: Objects | None


def _tile_truth(competition: Competition, sample: Sample, target: Masks, experiment: Experiment) -> _TileTruth:
    """The truth of a slide, with its surroundings where the network sees them, and objects grown as was asked for."""
    context_px, radius_px = experiment.preprocessing.context_px, experiment.data.grow_sources.get(sample.source, 0.0)
    objects, ignored = true_objects(competition, sample), competition.ignored(sample)
    if objects is None:
        return _TileTruth(target, ignored, None)
    if context_px:
        objects, ignored = cast(ObjectCompetition, competition).in_surroundings(sample, context_px)
        target = covered_pixels(objects)
    return _TileTruth(target, ignored, grow_objects(objects, radius_px) if radius_px else objects)


def _refuse_object_settings(competition: Competition, samples: Sequence[Sample], experiment: Experiment) -> None:
    """Refuse settings that do not go with the competition's task.

    Raises:
        InputError: If objects are to grow where there are none, or of a source that no image is of; if labels of
            objects are to be cleaned, or objects are of several classes; if slices are wanted of pictures.
    """
    data, of_objects = experiment.data, competition.task == "instances"
    sources = sorted({sample.source for sample in samples} - {""})
    faults = []
    for name in data.grow_sources:
        rule, remedy = "no image is of this source", f"sources of the images: {', '.join(sources) or 'none'}"
        if not of_objects:
            rule, remedy = (
                f"{competition.name} is a competition of masks, where no single object can grow",
                "leave it out",
            )
        if not of_objects or name not in sources:
            faults.append(Fault(f"data.grow_sources.{name}", "experiment", rule, remedy))
    if not of_objects and experiment.preprocessing.context_px:
        rule = "masks are predicted in tiles that overlap: only single objects are looked for beyond their image"
        faults.append(Fault("preprocessing.context_px", "experiment", rule, "leave it out"))
    if competition.task != "volumes" and experiment.preprocessing.slices != 3:
        rule = f"slices are those of a volume, and {competition.name} has pictures, whose 3 channels are colours"
        faults.append(Fault("preprocessing.slices", "experiment", rule, "leave it out"))
    turned = {"tiles.axes": experiment.tiles.axes != (SLICE_AXIS,), "tiles.tilt": experiment.tiles.tilt > 0}
    for name in [name for name, is_set in turned.items() if is_set and competition.task != "volumes"]:
        rule = f"planes are those of volumes, and {competition.name} has pictures"
        faults.append(Fault(name, "experiment", rule, "leave it out"))
    if of_objects and data.clean_blank:
        rule = "labels on the glass are cleaned of masks, not of single objects"
        faults.append(Fault("data.clean_blank", "experiment", rule, "leave it out"))
    if of_objects and len(competition.classes) > 1:
        rule = f"objects of {len(competition.classes)} classes, and networks of objects know one"
        faults.append(Fault("classes", competition.name, rule, "make one dataset of each class"))
    if faults:
        raise InputError(faults)


def _dataset_info(
    origin: dict[str, Any], competition: Competition, experiment: Experiment, cut: CutTiles, reference: StainReference
) -> DatasetInfo:
    return DatasetInfo(
        competition=competition.name,
        **origin,
        preprocessing=experiment.preprocessing,
        tiles=experiment.tiles,
        classes=competition.classes,
        clean_blank=experiment.data.clean_blank,
        task=competition.task,
        grow_sources=experiment.data.grow_sources,
        mean=cut.mean,
        std=cut.std,
        stain_reference=reference,
    )
