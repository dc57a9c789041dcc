"""Several datasets in one experiment: the main one, and those of its `[[data.sources]]` tables."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd

from histofold.competitions.base import Competition, ObjectCompetition, ObjectScore, Split
from histofold.competitions.registry import get_competition
from histofold.core.faults import Fault, InputError, listed_ids
from histofold.core.log import logger
from histofold.core.objects.detections import Detections
from histofold.core.objects.instances import Objects
from histofold.core.rle.runs import Masks, Runs
from histofold.data.duplicates import duplicate_groups
from histofold.data.folds import ALWAYS_TRAINED, merge_groups
from histofold.data.leaks import PSEUDO, image_stamp
from histofold.data.places import trained_ids
from histofold.data.pseudo import PSEUDO_RECORD, PseudoRecord, load_pseudo_record, pseudo_folder
from histofold.data.store import DatasetInfo, complete_preprocessing, dataset_root, load_dataset
from histofold.schema.dataset import SourceConfig
from histofold.schema.experiment import Experiment
from histofold.schema.parse import kept_json, write_json
from histofold.schema.sample import Sample

MAIN = "main"
NEAR_DUPLICATES = "near_duplicates.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One built dataset of an experiment."""

    name: str
    """`MAIN`, or the name of the source."""
    folder: Path
    """The built dataset."""
    weight: float
    """Its share of the draws, before all shares are normalised."""
    role: str
    """`train` or `folds`; the main one is `folds`."""
    info: DatasetInfo
    """What build_dataset.py recorded."""
    root: Path
    """Its competition folder."""
    index: pd.DataFrame
    """Its tiles."""
    folds: pd.DataFrame
    """Its folds.csv."""
    competition: Competition
    """Its adapter."""
    samples: dict[str, Sample]
    """Its images by their own ids."""
    without_tiles: tuple[str, ...]
    """Images that lie in its competition folder and are not in the dataset."""
    pseudo: PseudoRecord | None
    """How its labels were predicted, where they were."""

    def key(self, sample_id: str) -> str:
        """An id as the experiment knows it: as it stands for the main dataset, else `source/id`."""
        return sample_id if self.name == MAIN else f"{self.name}/{sample_id}"

    def qualified(self, sample: Sample) -> Sample:
        """A sample under the id, and in the group, that the experiment knows."""
        if self.name == MAIN:
            return sample
        return replace(sample, id=self.key(sample.id), group=self.key(sample.group or sample.id))

    def held_out(self, fold: int) -> list[Sample]:
        """Its images that a fold is scored on, under the ids that the experiment knows.

        Raises:
            InputError: With every one that is no longer in the competition's folder.
        """
        ids = self.folds.loc[self.folds["fold"] == fold, "id"].tolist() if self.role == "folds" else []
        missing = [key for key in ids if key not in self.samples]
        if missing:
            file, remedy = str(self.folder / "folds.csv"), "build the dataset anew from this folder"
            raise InputError([Fault(self.key(k), file, "id is not in the competition", remedy) for k in missing])
        return [self.qualified(self.samples[key]) for key in ids]

    def train_ids(self, fold: int) -> list[str]:
        """Its images that a fold trains on: all of them, or those that `trained_ids` leaves of scored ones."""
        if self.role == "train":
            return self.folds["id"].tolist()
        return trained_ids(self.folds, self.samples, fold)

    def tiles(self, fold: int, ids: Sequence[str]) -> pd.DataFrame:
        """Tiles of some images that a fold may train on: labels of people, and those predicted for this fold.

        The columns `dataset` and `folder` say whose they are and where they lie; ids are as the experiment knows them.
        """
        chosen = self.index[self.index["id"].isin(ids)]
        folders = pd.Series(str(self.folder), index=chosen.index)
        if "label_origin" in chosen.columns:
            made = chosen["label_origin"] == PSEUDO
            chosen = chosen[~made | (pd.to_numeric(chosen["label_fold"], errors="coerce") == fold)]
            folders = folders[chosen.index].mask(made[chosen.index], str(pseudo_folder(self.folder, fold)))
        known = {"id": [self.key(key) for key in chosen["id"]], "dataset": self.name, "folder": folders}
        return chosen.assign(**known).reset_index(drop=True)


def load_sources(experiment: Experiment) -> list[Source]:
    """The main dataset and the further ones, held against each other; copies are left out where that was asked for.

    Raises:
        InputError: If one is missing, of another scale or tile size, of other folds, or repeats images of another.
    """
    data = experiment.data
    main = SourceConfig(dataset=data.dataset, name=MAIN, root=data.root, weight=data.weight, role="folds")
    sources = [_load_source(main, MAIN, experiment)]
    faults: list[Fault] = []
    for config in data.sources:
        source = _load_source(config, config.name or Path(config.dataset).name, experiment)
        faults += _source_faults(source, sources)
        sources.append(source)
    if faults:
        raise InputError(faults)
    for place, config in enumerate(data.sources, start=1):
        sources[place] = _without_copies(sources[place], sources[:place], config.duplicates)
    _warn_of_shared_groups(sources)
    return sources


def _load_source(config: SourceConfig, name: str, experiment: Experiment) -> Source:
    folder = Path(config.dataset)
    info, index, folds = load_dataset(folder)
    complete_preprocessing(experiment, info, folder)
    competition = get_competition(info.competition)
    pseudo = load_pseudo_record(folder)
    if pseudo is None and (index["label_origin"] == PSEUDO).any():
        rule = f"predicted labels without {PSEUDO_RECORD}: nothing says what their network has seen"
        raise InputError([Fault(name, str(folder / "index.csv"), rule, "predict the labels anew")])
    split: Split = "test" if pseudo else "train"
    root = Path(config.root) if config.root else dataset_root(folder, info)
    if not root.is_dir():
        setting = "data.root" if name == MAIN else "root of its [[data.sources]] table"
        rule = f"its competition folder is not there: {root}"
        raise InputError([Fault(name, str(folder / "dataset.json"), rule, f"give its place as {setting}")])
    samples = {sample.id: sample for sample in competition.samples(root, split)}
    return Source(
        name=name,
        folder=folder,
        weight=config.weight,
        role=config.role,
        info=info,
        root=root,
        index=index,
        folds=folds,
        competition=competition,
        samples={key: samples[key] for key in folds["id"] if key in samples},
        without_tiles=tuple(sorted(samples.keys() - set(folds["id"]))),
        pseudo=pseudo,
    )


def _source_faults(source: Source, before: Sequence[Source]) -> list[Fault]:
    """In what a further dataset does not fit the ones before it."""
    main, file = before[0], str(source.folder)
    faults = []
    if "/" in source.name or not source.name or source.name in [other.name for other in before]:
        faults.append(Fault(source.name, file, "its name is taken or holds a slash", "give data.sources a `name`"))
    if set(source.index["size"]) - set(main.index["size"]):
        own, wanted = _numbers(source.index["size"]), _numbers(main.index["size"])
        rule = f"its tiles have {own} pixels and those of the main dataset {wanted}"
        faults.append(Fault(source.name, file, rule, "build it anew with the experiment's tiles.size"))
    own_classes, wanted_classes = source.info.classes, main.info.classes
    if len(wanted_classes) > 1 and own_classes != wanted_classes:
        rule = f"its classes are {', '.join(own_classes)} and those of the main dataset {', '.join(wanted_classes)}"
        faults.append(Fault(source.name, file, rule, "name the same classes in the same order in its classes.txt"))
    if source.info.task != main.info.task:
        rule = f"its competition is one of {source.info.task} and that of the main dataset one of {main.info.task}"
        faults.append(Fault(source.name, file, rule, "build it of a competition of the same task"))
    if source.role == "folds" and source.info.task == "instances":
        rule = "objects are scored over all images of a competition at once, and its are not the main dataset's"
        faults.append(Fault(source.name, file, rule, 'write role = "train"'))
    if source.role == "folds" and source.pseudo:
        rule = "predicted labels cannot be scored against"
        faults.append(Fault(source.name, file, rule, 'write role = "train"'))
    scored, expected = (set(each.folds["fold"]) - {ALWAYS_TRAINED} for each in (source, main))
    if source.role == "folds" and scored != expected:
        rule = f"its folds are {_numbers(scored)} and those of the main dataset {_numbers(expected)}"
        faults.append(Fault(source.name, file, rule, 'build it with as many folds, or write role = "train"'))
    return faults


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(numbers))))


def _without_copies(source: Source, before: Sequence[Source], wish: str) -> Source:
    """The source without its images that an earlier one has.

    Raises:
        InputError: With every such image, unless they are to be dropped.
    """
    copies = repeated_images(source, before)
    if not copies:
        return source
    if wish != "drop":
        remedy = 'write duplicates = "drop" in its [[data.sources]] table to leave it out'
        raise InputError([Fault(source.key(key), str(source.folder), rule, remedy) for key, rule in copies.items()])
    words = listed_ids(copies, most=len(copies))
    logger.warning("source %s: %d images that others have are left out: %s", source.name, len(copies), words)
    return replace(
        source,
        index=source.index[~source.index["id"].isin(copies)].reset_index(drop=True),
        folds=source.folds[~source.folds["id"].isin(copies)].reset_index(drop=True),
        samples={key: sample for key, sample in source.samples.items() if key not in copies},
    )


def repeated_images(source: Source, before: Sequence[Source]) -> dict[str, str]:
    """Images of a source that earlier ones have, by id, with how it was seen: the id, the file, or the picture."""
    others = {other.key(key): sample for other in before for key, sample in other.samples.items()}
    ids = {key: other.key(key) for other in reversed(before) for key in other.samples}
    stamps = {image_stamp(sample.image_path): name for name, sample in others.items()}
    stamps.pop("", None)
    near = _near_copies(source, others)
    copies = {}
    for key, sample in source.samples.items():
        twin = stamps.get(image_stamp(sample.image_path))
        if key in ids:
            copies[key] = f"has the id of {ids[key]}"
        elif twin:
            copies[key] = f"has the file of {twin}"
        elif key in near:
            copies[key] = f"shows the same tissue as {near[key]}"
    return copies


def _near_copies(source: Source, others: Mapping[str, Sample]) -> dict[str, str]:
    """Which of the others each near-duplicate shows; kept in the source's folder, for it reads every image once."""
    if source.competition.task == "volumes":
        return {}  # slices look like those beside them; a volume that stands twice has its ids and files twice
    own = {source.key(key): sample for key, sample in source.samples.items()}
    described = [[name, image_stamp(sample.image_path)] for name, sample in [*others.items(), *own.items()]]
    digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    path = source.folder / NEAR_DUPLICATES
    known = kept_json(path)
    if known.get("digest") == digest:
        return dict(known["near"])
    clusters = duplicate_groups([replace(sample, id=name) for name, sample in [*others.items(), *own.items()]])
    first = {cluster: name for name, cluster in reversed(clusters.items()) if name in others}
    near = {key: first[c] for key in source.samples if (c := clusters.get(source.key(key), "")) in first}
    write_json(path, {"digest": digest, "near": near})
    return near


def _warn_of_shared_groups(sources: Sequence[Source]) -> None:
    """Groups that are scored in one dataset and whose name another one has too: if they are one patient, they leak."""
    for first, second in itertools.combinations(sources, 2):
        names = {source.name: {sample.group for sample in source.samples.values()} for source in (first, second)}
        shared = (_scored_groups(first) & names[second.name]) | (_scored_groups(second) & names[first.name])
        if shared:
            words = "groups %s stand in %s and in %s dataset: if they are the same patients, scores leak"
            other = "the main" if first.name == MAIN else f"the {first.name}"
            logger.warning(words, listed_ids(sorted(shared)), second.name, other)


def _scored_groups(source: Source) -> set[str]:
    """Groups of the images of a dataset that some fold is scored on; images that are groups of their own have none."""
    scored = set(source.folds.loc[source.folds["fold"] != ALWAYS_TRAINED, "id"]) if source.role == "folds" else set()
    return {sample.group for key, sample in source.samples.items() if key in scored and sample.group not in ("", key)}


def joined_folds(sources: Sequence[Source]) -> pd.DataFrame:
    """folds.csv of all datasets that are scored, under the ids and groups that the experiment knows."""
    parts = [
        s.folds.assign(id=[s.key(k) for k in s.folds["id"]], group=[s.key(g) for g in s.folds["group"]])
        for s in sources
        if s.role == "folds"
    ]
    return pd.concat(parts, ignore_index=True)


def joined_groups(sources: Sequence[Source]) -> dict[str, str]:
    """The group of each image of the datasets that are scored, by its id: within one, scores are not independent.

    Images of one group in folds.csv, or in the competition's own tables, are of one group here, and so on until nothing
    is shared: near-duplicates join patients in the file, and a file of other names makes no two patients of one.
    """
    groups: dict[str, str] = {}
    for source in sources:
        if source.role == "folds":
            filed = dict(zip(source.folds["id"], source.folds["group"], strict=True))
            own = {key: source.samples[key].group if key in source.samples else "" for key in filed}
            named = {key: group for key, group in filed.items() if group}  # a file need not name groups
            merged = merge_groups({key: group or key for key, group in own.items()}, named)
            groups |= {source.key(key): source.key(group) for key, group in merged.items()}
    return groups


def joined_samples(sources: Sequence[Source]) -> dict[str, Sample]:
    """The images of all datasets that are scored, by the ids that the experiment knows."""
    scored = [source for source in sources if source.role == "folds"]
    return {source.key(key): source.qualified(sample) for source in scored for key, sample in source.samples.items()}


class JoinedTruth:
    """The truth of all datasets of an experiment, under the ids that the experiment knows."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Join datasets; `sources` starts with the main one."""
        competition = sources[0].competition
        self.name, self.never_empty, self.task = competition.name, competition.never_empty, competition.task
        self.metric = getattr(competition, "metric", "Dice")
        self._main = competition
        self._owners = {source.key(key): (source, key) for source in sources for key in source.samples}

    def target(self, sample: Sample) -> Masks:
        """The truth of a training sample of any of the datasets."""
        source, key = self._owners[sample.id]
        return source.competition.target(source.samples[key])

    def ignored(self, sample: Sample) -> Runs | None:
        """Pixels of a training sample of any of the datasets that do not count."""
        source, key = self._owners[sample.id]
        return source.competition.ignored(source.samples[key])

    def objects(self, sample: Sample) -> Objects:
        """The true objects of a training sample of any of the datasets, where their competition is one of objects."""
        source, key = self._owners[sample.id]
        return cast(ObjectCompetition, source.competition).objects(source.samples[key])

    def unsure(self, sample: Sample) -> Objects:
        """Its objects that do not count, since people were unsure of them."""
        source, key = self._owners[sample.id]
        return cast(ObjectCompetition, source.competition).unsure(source.samples[key])

    def score_objects(self, predictions: Mapping[str, Detections], samples: Sequence[Sample]) -> ObjectScore:
        """The metric of the main dataset's competition, over its samples: other datasets of objects are not scored."""
        return cast(ObjectCompetition, self._main).score_objects(predictions, samples)
