"""What a fold is trained on, gathered and checked before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from histofold.competitions.base import ObjectCompetition, Truth
from histofold.core.faults import Fault, InputError
from histofold.data.changes import fold_inputs
from histofold.data.leaks import forbidden_samples, image_stamp
from histofold.data.pseudo import label_faults
from histofold.data.sources import JoinedTruth, Source, joined_folds, joined_samples, load_sources
from histofold.data.store import check_experiment, complete_preprocessing
from histofold.models.weights import with_encoder_moments
from histofold.schema.experiment import VALIDATION_THRESHOLD, Experiment
from histofold.schema.files import weights_file
from histofold.schema.manifest import Manifest, file_sha256
from histofold.schema.network import is_detector
from histofold.schema.sample import Sample
from histofold.train.augment.own import pipeline_digest
from histofold.train.checkpoint import training_settings
from histofold.train.objects.settings import completed_for_objects, network_classes
from histofold.train.warm_start import InitialWeights, find_initial_weights


@dataclass(frozen=True, kw_only=True)
class FoldSetup:
    """One fold of one experiment, ready to train."""

    experiment: Experiment
    """The experiment."""
    fold: int
    """The fold that is held out."""
    folder: Path
    """Where the run writes: runs/E/fold{k}."""
    dataset: Path
    """The main dataset."""
    index: pd.DataFrame
    """The tiles to train on, with the columns `dataset` and `folder`: whose they are and where they lie."""
    competition: Truth
    """The adapter, its training targets loaded; of several datasets it knows every truth."""
    training: list[Sample]
    """The slides that the tiles were cut from."""
    validation: list[Sample]
    """The held-out slides; with a limit, the training slides themselves."""
    manifest: Manifest
    """How slides are predicted in validation."""
    limit: int | None
    """Number of training slides of an overfitting check, None for a real run."""
    digest: str
    """Identifies experiment, datasets, fold and limit: states of another digest are not resumed."""
    inputs: dict[str, str] = field(default_factory=dict)
    """All that decides the training beside its settings, as `changed_inputs` compares it."""
    folds: tuple[int, ...] = ()
    """All folds that can be held out."""
    weights: dict[str, float] = field(default_factory=dict)
    """Share of the draws of each dataset by its name, as the index has it in its column `dataset`."""
    initial: Path | None = None
    """Weights of a whole network to start from."""
    trained_on: dict[str, str] = field(default_factory=dict)
    """File stamp by id of every image that the weights, or a network before them, are trained on."""
    organs: tuple[str, ...] = ()
    """The organs of the training tiles, sorted; the loader gives the place of each example's organ in them."""

    def example_weights(self) -> torch.Tensor:
        """Weight of each example in the loss by the place of its organ, `loss.organ_weights`, 1 where none is set.

        Returns:
            float32 (number of organs + 1,): the last is that of an unknown organ, whose place is -1.
        """
        weights = self.experiment.loss.organ_weights
        return torch.tensor([*(weights.get(organ, 1.0) for organ in self.organs), 1.0])

    def organs_of(self, places_N: torch.Tensor) -> list[str]:
        """Names of the organs whose places a loader gives; empty where the place is -1."""
        return [(*self.organs, "")[place] for place in places_N.tolist()]

    @property
    def is_detector(self) -> bool:
        """Whether the network finds single objects by itself."""
        return is_detector(self.experiment.model.architecture)

    @property
    def metric(self) -> str:
        """The word that stands before its scores: Dice, AP, AP50."""
        return "Dice" if self.manifest.objects is None else cast(ObjectCompetition, self.competition).metric

    def score_words(self, score: float) -> str:
        """The score of the finished fold in words."""
        how = f" at threshold {VALIDATION_THRESHOLD}" if self.manifest.objects is None else ""
        return f"fold {self.fold}: {self.metric} {score:.4f}{how} on {len(self.validation)} slides, in {self.folder}"


def prepare_fold(experiment: Experiment, name: str, runs: Path, fold: int, limit: int | None) -> FoldSetup:
    """Gather what a fold needs.

    Args:
        experiment: The experiment.
        name: Its name, the folder below `runs`.
        runs: Where runs are kept.
        fold: The fold to hold out.
        limit: Train and validate on this many training slides of the main dataset only, to see that the model can
            overfit them.

    Raises:
        InputError: If a dataset is missing, does not fit the others or was cut at another scale, the fold is unknown,
            nothing is left to train on, the crop is larger than the tiles, organs or sources are named that no tile
            has, settings do not go with the task, the augmentation's pipeline cannot be had, or labels or initial
            weights have seen what the fold is scored on.
    """
    folds = check_experiment(experiment, fold)
    # The run's own experiment.toml says what its network sees, and its digest holds it.
    experiment = experiment.as_trained()
    experiment = replace(experiment, preprocessing=with_encoder_moments(experiment.preprocessing, experiment.model))
    sources = load_sources(experiment)
    main = sources[0]
    experiment = completed_for_objects(experiment, main.info, main.folder)
    chosen = {source.name: source.train_ids(fold) for source in sources}
    validation = [sample for source in sources for sample in source.held_out(fold)]
    if limit is not None:
        chosen = {main.name: chosen[main.name][:limit]}
        validation = [main.samples[key] for key in chosen[main.name]]
    used = [source for source in sources if source.name in chosen]
    index = pd.concat([source.tiles(fold, chosen[source.name]) for source in used], ignore_index=True)
    if index.empty:
        file = str(main.folder / "index.csv")
        raise InputError([Fault(f"fold {fold}", file, "no tiles to train on", "build it anew")])
    _refuse_wide_crop(experiment, index, main.folder)
    # An overfitting check on a few slides takes the organs that they have; a real run refuses all others.
    if limit is None:
        refuse_unknown("loss.organ_weights", experiment.loss.organ_weights, index["organ"])
        refuse_unknown("model.organs", experiment.model.organs, index["organ"])
        refuse_unknown("train.organs", experiment.train.organs, index["organ"])
        refuse_unknown("train.sources", experiment.train.sources, index["source"])
    initial, earlier = _earlier_networks(experiment, used, fold, scored=limit is None)
    trained = [s.qualified(s.samples[k]) for s in used for k in chosen[s.name] if k in s.samples]
    # An image that has left its folder since its tiles were cut is trained on all the same.
    stamps = {s.key(k): "" for s in used for k in chosen[s.name]}
    stamps |= {sample.id: image_stamp(sample.image_path) for sample in trained}
    described = [[s.name, file_sha256(s.folder / "index.csv"), s.weight, chosen[s.name]] for s in used]
    begun = [file_sha256(path) for path in (initial.path if initial else None, _encoder_file(experiment)) if path]
    held_out = [sample.id for sample in validation]
    inputs = fold_inputs(used, chosen, held_out) | {"weights of the first step": " ".join(begun)}
    if experiment.augment.pipeline:
        inputs["steps of augment.pipeline"] = pipeline_digest(experiment.augment.pipeline)
    text = json.dumps([training_settings(experiment), described, held_out, limit, begun, sorted(inputs.items())])
    preprocessing = complete_preprocessing(experiment, main.info, main.folder)
    return FoldSetup(
        experiment=experiment,
        fold=fold,
        folder=runs / name / f"fold{fold}",
        dataset=main.folder,
        index=index,
        competition=main.competition if len(used) == 1 else JoinedTruth(used),
        training=trained,
        validation=validation,
        manifest=experiment.manifest(
            preprocessing,
            main.info.competition,
            network_classes(main.info, main.competition.classes, experiment.model.architecture),
            objects=main.info.task == "instances",
            volume=main.info.task == "volumes",
        ),
        limit=limit,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        inputs=inputs,
        folds=tuple(folds),
        weights={source.name: source.weight for source in used},
        initial=initial.path if initial else None,
        trained_on=_all_stamps(stamps, earlier, main.info.competition),
        organs=tuple(sorted(set(index["organ"]) - {""})),
    )


def check_classes(setup: FoldSetup) -> None:
    """Refuse what cannot be validated.

    Raises:
        InputError: If the network has other classes than the slides.
    """
    classes, known = setup.experiment.model.classes, setup.manifest.classes
    if classes != len(known):
        words = "one class" if len(known) == 1 else f"the {len(known)} classes {', '.join(known)}"
        rule = f"whole slides are predicted, and so validated, for {words}, not for {classes}"
        raise InputError([Fault("model.classes", "experiment", rule, f"set it to {len(known)}")])


def refuse_unknown(setting: str, wanted: Iterable[str], names: Iterable[str]) -> None:
    """Refuse names of regions, organs or sources that no tile has.

    Args:
        setting: Dotted name of the setting that holds them, whose last part is `regions`, `organs`, `organ_weights` or
            `sources`.
        wanted: Its names.
        names: Region, organ or source of each tile, empty where it is unknown.

    Raises:
        InputError: With each of them, and those that tiles have.
    """
    what = next(word for word in ("region", "organ", "source") if word in setting.rpartition(".")[2])
    found = sorted(set(names) - {""})
    remedy = f"{what}s of the tiles: {', '.join(found) or 'none, the competition names no ' + what}"
    rule = f"no tile to train on is of this {what}"
    faults = [Fault(f"{setting}.{name}", "index.csv", rule, remedy) for name in wanted if name not in found]
    if faults:
        raise InputError(faults)


def _refuse_wide_crop(experiment: Experiment, index: pd.DataFrame, folder: Path) -> None:
    """Refuse a crop that no tile holds, which would be the whole tile without a word."""
    crop, size = experiment.augment.crop, int(index["size"].iloc[0])
    if crop > size:
        rule, remedy = f"crop={crop} is larger than the tiles, of {size} pixels", "lower it, or set it to 0"
        raise InputError([Fault("augment.crop", str(folder / "index.csv"), rule, remedy)])


def _encoder_file(experiment: Experiment) -> Path | None:
    """The file of the encoder's first weights, where they are of a file that is there (else loading them says so)."""
    kind, _, name = experiment.model.encoder_weights.partition(":")
    path = weights_file(Path(name))
    return path if kind == "file" and path.is_file() else None


def _earlier_networks(
    experiment: Experiment, sources: Sequence[Source], fold: int, scored: bool
) -> tuple[InitialWeights | None, list[tuple[str, dict[str, str]]]]:
    """The weights that a fold starts from, and adapter and stamps of what they and the labels' makers were trained on.

    Raises:
        InputError: If any of them has seen what the fold is scored on.
    """
    competition = sources[0].info.competition
    # An overfitting check is scored on what it is trained on, and its score means nothing anyway.
    forbidden = forbidden_samples(joined_folds(sources), joined_samples(sources), fold) if scored else []
    slices = experiment.preprocessing.slices
    initial = find_initial_weights(experiment.model, fold, forbidden, competition, slices=slices)
    faults: list[Fault] = []
    earlier = [(initial.competition, initial.trained_on)] if initial else []
    for source in sources:
        if source.pseudo:
            faults += label_faults(source.pseudo, source.folder, fold, forbidden, competition)
            maker = source.pseudo.makers.get(str(fold))
            earlier += [(maker.competition, maker.trained_on)] if maker else []
    if faults:
        raise InputError(faults)
    return initial, earlier


def _all_stamps(
    own: Mapping[str, str], earlier: Sequence[tuple[str, Mapping[str, str]]], competition: str
) -> dict[str, str]:
    """File stamp by id of what a fold is trained on and of what the networks before it were; no stamp is lost.

    Ids mean images only within their competition, and in plain folders not even there: the others are told apart by the
    name of their adapter, and files of one id by their stamps.
    """
    stamps = dict(own)
    for owner, seen in earlier:
        for key, stamp in seen.items():
            is_same = owner == competition and (owner != "folder" or own.get(key) == stamp)
            name = key if is_same else f"{owner}:{key}"
            stamps[name if stamps.get(name, stamp) == stamp else f"{name}:{stamp}"] = stamp
    return stamps
